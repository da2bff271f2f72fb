"""A run folder: seeds trained into it, skipped when finished, resumed when not."""

import contextlib
import hashlib
import json
import logging
import math
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnnscale.catalog import Catalog
from gnnscale.compose import PACE, Plan, build, check, stages, take_up, teacher_plan
from gnnscale.core.cache import cache_folder
from gnnscale.core.compiled import sources
from gnnscale.core.data import GraphData
from gnnscale.core.environment import revision, versions
from gnnscale.core.errors import UsageError
from gnnscale.core.lock import LOCK, PATIENCE_S, locked
from gnnscale.core.metrics import scale_of, told
from gnnscale.core.record import Record, sweep, write_bytes, write_json
from gnnscale.train.loop import Run

log = logging.getLogger("gnnscale")

FREE = ("seed", "seeds", "resume", "trust")
"""Keys in which a repeated command may differ from the run folder it continues."""
TEACHER = "teacher.json"
"""Beside a student's ``config.json``: what trains its teachers, which a preset may say otherwise
one day, when the folder's other seeds are still to come."""


def train(
    plan: Plan,
    folder: Path,
    seeds: Sequence[int],
    command: dict[str, Any],
    beside: Mapping[str, str] | None = None,
    patience_s: float = PATIENCE_S,
) -> list[Record]:
    """Train every seed that has no record yet; return the records of all of them.

    Writes ``config.json``, ``run.json``, a student's ``teacher.json`` and the texts ``beside`` (by
    their paths in there) into a fresh folder, then ``seed-<k>/`` with metrics, checkpoint, status
    and record. Raises UsageError if the folder belongs to another composition, or to another
    process that does not leave it within ``patience_s``; nothing in it is altered.
    """
    with locked(folder, patience_s):
        claim(plan, folder, command, beside or {})
        sweep(folder)
        with log_file(folder / "log.txt"):
            return [train_seed(plan, seed, folder / f"seed-{seed}") for seed in seeds]


def what(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what changes no number of a seed."""
    kept = {name: value for name, value in config.items() if name not in FREE}
    for group, _, own in (key.partition(".") for key in PACE):
        if group in kept:
            kept[group] = {k: v for k, v in kept[group].items() if k != own}
    return kept


def _differing(stored: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Groups in which two configurations are not the same thing."""
    before, now = what(stored), what(config)
    return [n for n in sorted(before.keys() | now.keys()) if before.get(n) != now.get(n)]


def _teacher(folder: Path) -> dict[str, Any] | None:
    """What a student's folder says of its teacher; None if nothing."""
    path = folder / TEACHER
    return json.loads(path.read_text()) if path.exists() else None


def claim(plan: Plan, folder: Path, command: dict[str, Any], beside: Mapping[str, str]) -> None:
    """Make a folder this composition's, or see that it already is."""
    path = folder / "config.json"
    if path.exists():
        stored = json.loads(path.read_text())
        differing = _differing(stored, plan.config)
        if differing:
            raise UsageError(
                f"{folder}: holds a run of another composition (it differs in "
                f"{', '.join(differing)}); choose another hydra.run.dir, or continue that run "
                f"with resume={folder}"
            )
        taught = _teacher(folder)
        if taught and plan.teacher and (found := _differing(taught["config"], plan.teacher.config)):
            raise UsageError(
                f"{folder}: its students had another teacher (it differs in {', '.join(found)}: "
                "the preset or an option has changed since); choose another hydra.run.dir, or go "
                f"on with the teacher it had: resume={folder}"
            )
        return
    about = {
        **command,
        "choices": plan.choices,
        "versions": versions(),
        "revision": revision(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    for name, text in beside.items():
        write_bytes(folder / name, text.encode())
    if plan.teacher is not None:
        about_teacher = {"config": plan.teacher.config, "choices": plan.teacher.choices}
        write_json(folder / TEACHER, about_teacher)
    write_json(folder / "run.json", about)
    write_json(path, plan.config)  # last: a folder that has it is whole


def discard(folder: Path) -> None:
    """Take back the folder of a command that was refused, unless something was trained into it.

    Only files that a refused command itself writes are removed, and folders left empty by that;
    nothing at all where another process is.
    """
    try:
        with locked(folder):
            _discard(folder)
    except UsageError:
        return
    _prune(folder)


def _discard(folder: Path) -> None:
    if any(folder.glob("seed-*/*.pt")) or any(folder.glob("seed-*/record.json")):
        return
    own = [
        "config.json",
        "run.json",
        TEACHER,
        "log.txt",
        LOCK,
        "seed-*/status.json",
        ".hydra/*.yaml",
    ]
    for path in [p for pattern in own for p in folder.glob(pattern)]:
        path.unlink()


def _prune(folder: Path) -> None:
    """Remove folders that are empty now."""
    here = Path.cwd()
    above = [p for p in folder.resolve().parents if p != here and p.is_relative_to(here)]
    for path in [*folder.glob("seed-*"), folder / ".hydra", folder, *above]:
        try:
            path.rmdir()
        except OSError:  # not empty, or not there
            continue


def train_seed(plan: Plan, seed: int, folder: Path) -> Record:
    """One seed to its record; the record of an earlier run if there is one."""
    record = folder / "record.json"
    if record.exists():
        log.info("seed %d: already finished, skipped", seed)
        return Record.load(record)
    folder.mkdir(parents=True, exist_ok=True)
    status = folder / "status.json"
    write_json(status, {"state": "running", "started": time.time()})
    try:
        execute(plan, seed, folder)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        about = {
            "state": "interrupted" if stopped else "failed",
            "error": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
        with contextlib.suppress(OSError):  # the disk may be what failed
            write_json(status, about)
        raise
    write_json(status, {"state": "finished"})
    return Record.load(record)


def execute(plan: Plan, seed: int, folder: Path) -> Run:
    """Run the recipe's stages on one seed."""

    def make_teacher(data: GraphData) -> Run:
        return teach(plan, seed, data)

    run = build(plan, seed, folder, make_teacher)
    finished = False
    try:
        for stage in stages(plan):
            stage(run)
        finished = True
    finally:
        run.listeners.close(finished)
    return run


def teach(plan: Plan, seed: int, data: GraphData) -> Run:
    """The teacher of one seed: a finished run of the same data and seed.

    One that the composition describes is trained into the cache, in a run folder of its own under a
    hash of its composition, its data, its seed and our sources, and found there by every student.
    Who comes while another process trains it waits.
    """
    if plan.teacher is not None:
        folder = teacher_folder(plan.teacher, seed, data)
        if not (folder / f"seed-{seed}" / "record.json").exists():
            log.info("seed %d: training the teacher into %s", seed, folder)
        command = {"command": typed_command(), "overrides": []}
        train(plan.teacher, folder, [seed], command, patience_s=math.inf)
        return reopened(plan.teacher, seed, folder)
    source = Path(plan.config["teacher"]["run"])
    stored = load_plan(source, trusted=plan.trusted)
    if stored.config["dataset"] != plan.config["dataset"]:
        raise UsageError(
            f"teacher={source}: was trained on another dataset or split "
            f"({stored.choices.get('dataset')}); train one on this dataset and give its run folder"
        )
    order, own = (p.config["hardware"].get("order", "source") for p in (stored, plan))
    if order != own:
        raise UsageError(
            f"teacher={source}: numbers its nodes by hardware.order={order}, this run by "
            f"hardware.order={own}; type hardware.order={order}"
        )
    if not (source / f"seed-{seed}" / "record.json").exists():
        raise UsageError(
            f"teacher={source}: has no finished seed {seed}; another seed's teacher has seen "
            f"another split. Type: gnnscale train resume={source} seeds={seed + 1}"
        )
    return reopened(stored, seed, source)


def reopened(plan: Plan, seed: int, folder: Path) -> Run:
    """The run of a finished seed, its weights in place."""
    own = folder / f"seed-{seed}"
    run = build(plan, seed, own)
    take_up(plan, run, own)
    return run


def teacher_folder(plan: Plan, seed: int, data: GraphData) -> Path:
    """Where in the cache the teacher of one seed is."""
    stamp = json.dumps(
        [what(plan.config), seed, data.digest(), sources()], sort_keys=True, default=str
    )
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    return cache_folder() / "teachers" / f"{data.name}-{plan.choices['architecture']}-{digest}"


def load_plan(
    folder: Path,
    catalog: Catalog | None = None,
    trusted: frozenset[str] = frozenset(),
    taught: bool = False,
) -> Plan:
    """The checked plan of an existing run folder. Raises UsageError if it is none.

    ``taught``: with the teacher that it was begun with, for seeds that are still to be trained.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UsageError(f"{folder}: not a run folder (no config.json in it)")
    choices = json.loads((folder / "run.json").read_text())["choices"]
    stored, catalog = json.loads(path.read_text()), catalog or Catalog.load()
    plan = check(stored, choices, catalog, trusted, taught=False)
    if taught and plan.learns:
        begun = _teacher(folder)
        plan.teacher = (
            check(begun["config"], begun["choices"], catalog, trusted, depth=1)
            if begun else teacher_plan(plan, catalog, trusted)
        )  # fmt: skip
    return plan


def summary(records: Sequence[Record]) -> str:
    """Mean, sample standard deviation, n and seeds of the test score, as it is usually told."""
    name = records[0].metric["name"]
    scale = scale_of(name)
    scores = [scale * r.metric["test"] for r in records]
    seeds = [r.seed for r in records]
    if len(scores) == 1:
        return f"test {name} {told(name, scores[0])} (seed {seeds[0]}, n = 1)"
    mean, std = (told(name, s) for s in (statistics.mean(scores), statistics.stdev(scores)))
    return f"test {name} {mean} ± {std} (n = {len(scores)}, seeds {_ranges(seeds)})"


def _ranges(seeds: Sequence[int]) -> str:
    seeds = sorted(seeds)
    whole = seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}-{seeds[-1]}" if whole else ", ".join(map(str, seeds))


def typed_command() -> str:
    """The command as the user typed it."""
    return shlex.join(["gnnscale", *sys.argv[1:]])


class _LogFile(logging.FileHandler):
    """A log file that a full disk ends without a word about it: the run tells of that itself."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Take no more lines."""
        log.removeHandler(self)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Also write the log into the run folder."""
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
