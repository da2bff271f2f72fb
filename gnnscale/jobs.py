"""The jobs of one ``train`` command, handed over to Hydra: one, or many with ``-m``."""

import errno
import logging
import os
import secrets
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gnnscale import compose, session
from gnnscale.catalog import Catalog
from gnnscale.core.errors import TrainingError, UsageError
from gnnscale.overrides import Request

log = logging.getLogger("gnnscale")


def set_up_log() -> None:
    """One logger, to standard error; again in each job, since Hydra switches loggers off."""
    log.disabled = False
    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def _unwritable(error: OSError, folder: Path) -> str:
    """What to say when a file of a run can't be written."""
    free = shutil.disk_usage(folder).free / 2**20
    return (
        f"{error.filename or folder}: can't be written ({error.strerror}; {free:.0f} MiB free "
        "there). The last whole checkpoint is kept; once there is room, go on with\n"
        f"  gnnscale train resume={shlex.quote(str(folder))}"
    )


def run_folder(
    plan: Any,
    folder: Path,
    typed: list[str],
    seeds: Sequence[int] | None = None,
    beside: Mapping[str, str] | None = None,
) -> int:
    """Train into a folder, tell the result, and turn errors into exit codes.

    ``seeds``: None for those of the plan. ``beside``: texts that a fresh folder gets as well.
    """
    command = {"command": session.typed_command(), "overrides": typed}
    try:
        records = session.train(plan, folder, seeds or plan.seeds, command, beside)
    except UsageError:
        raise
    except KeyboardInterrupt:
        log.error(
            "interrupted; everything up to the last finished epoch is saved. To go on, type\n"
            "  gnnscale train resume=%s", shlex.quote(str(folder)),
        )  # fmt: skip
        return 130
    except TrainingError as error:
        log.error("%s: %s", folder, error)
        return 1
    except Exception as error:  # the last stop of a job: say it at once, keep the traceback
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            log.error("%s", _unwritable(error, folder))
            return 1
        log.error("%s: %s: %s", folder, type(error).__name__, error)
        log.error("%s", traceback.format_exc())
        return 1
    log.info("%s", session.summary(records))
    return 0


class Jobs:
    """The jobs of one ``train`` command: one, or many with ``-m``."""

    def __init__(
        self, request: Request, typed: list[str], catalog: Catalog, trusted: frozenset[str]
    ):
        self.typed, self.catalog, self.trusted = typed, catalog, trusted
        self.flags = _without_config_dir(request.flags)
        self.many = bool({"-m", "--multirun"} & set(request.flags))
        self.codes: list[int] = []
        self.folder: Path | None = None

    def run(self) -> tuple[int, Path | None]:
        """Hand over to Hydra; (worst exit code, folder of the finished run or of the sweep)."""
        register_stamp()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting
        extra = []
        if len(self.catalog.folders) > 1:
            extra = [f"hydra.searchpath=[{compose.search_path(self.catalog)}]"]
        before, sys.argv = sys.argv, [sys.argv[0], *self.flags, *extra, *self.typed]
        try:
            entry = hydra.main(
                version_base="1.3", config_path=str(self.catalog.folders[0]), config_name="train"
            )
            with _one_composition(unset=len(self.catalog.folders) == 1 and not _hydra(self.typed)):
                entry(lambda config: self.job(config, before))()
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(compose.readable(error)) from error
        except OSError as error:  # jobs handle their own: this is Hydra making the run folder
            raise UsageError(
                f"{error.filename}: the run folder can't be made ({error.strerror}); "
                "choose another place, e.g. hydra.run.dir=/tmp/run"
            ) from error
        finally:
            sys.argv = before
        set_up_log()
        if self.many and self.folder is not None:
            failed = sum(code != 0 for code in self.codes)
            log.info("%d jobs, %d failed", len(self.codes), failed)
            return max(self.codes), self.folder.parent
        code = max(self.codes, default=0)
        return code, None if code else self.folder

    def job(self, config: Any, argv: list[str]) -> None:
        """One job; its failure is told at once and does not stop the others."""
        set_up_log()
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        self.folder = _short_path(folder)
        fresh = not (folder / "config.json").exists()
        # as typed: an interpolation in there is resolved, or refused, with the composition below
        typed = list(OmegaConf.to_container(hydra.overrides.task, resolve=False))
        try:
            sys.argv = argv
            whole = config.copy()
            with open_dict(whole):
                whole.hydra = hydra
            values, choices = compose.plain(whole)
            plan = compose.check(values, choices, self.catalog, self.trusted)
            self.codes.append(run_folder(plan, self.folder, typed, beside=_notes(config, hydra)))
        except (UsageError, OmegaConfBaseException) as error:
            if fresh:
                session.discard(folder)
            said = compose.readable(error) if isinstance(error, OmegaConfBaseException) else error
            log.error("gnnscale: %s%s", f"{' '.join(typed)}: " if self.many else "", said)
            self.codes.append(2)
        if self.many and self.codes[-1] == 130:
            raise KeyboardInterrupt


def _hydra(typed: Sequence[str]) -> bool:
    """Whether something typed may say ``hydra.mode``."""
    return any("mode" in word for word in typed if word.lstrip("+~").startswith("hydra"))


@contextmanager
def _one_composition(unset: bool) -> Iterator[None]:
    """Hydra composes everything twice, first only to learn ``hydra.mode``.

    Where it is ``unset``, since no typed word and no folder of the user's sets it, Hydra is told
    what it would find, None; a third of a second.
    """
    asked = Hydra.get_mode
    if unset:
        Hydra.get_mode = lambda *_, **__: None
    try:
        yield
    finally:
        Hydra.get_mode = asked


def _notes(config: Any, hydra: Any) -> dict[str, str]:
    """What Hydra keeps of a job, for us to write once the run folder is ours.

    Hydra would write it before it calls the job, into whatever run is there (``output_subdir`` is
    null in train.yaml for that reason).
    """
    kept = {"config": config, "hydra": {"hydra": hydra}, "overrides": hydra.overrides.task}
    return {f".hydra/{name}.yaml": OmegaConf.to_yaml(part) for name, part in kept.items()}


def _without_config_dir(flags: Sequence[str]) -> list[str]:
    """The flags for Hydra: the user's folders go into its search path, all in one way."""
    words, kept = iter(flags), []
    for word in words:
        if word == "--config-dir":
            next(words)
        else:
            kept.append(word)
    return kept


def _short_path(folder: Path) -> Path:
    """Relative to where the user stands, if it is below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def stamp() -> str:
    """A name no other run has: UTC time to the microsecond and four random hex digits."""
    now = datetime.now(timezone.utc)
    return f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"


def register_stamp() -> None:
    """``${gnnscale_stamp:}``: UTC time to the microsecond and four random hex digits."""
    OmegaConf.register_new_resolver("gnnscale_stamp", stamp, use_cache=True, replace=True)
