"""What can be chosen: the groups, options and keys found in the config folders, without Hydra.

Listing reads only the leading comments of each YAML; its body is parsed when ``target`` or
``parameters`` is asked for. Later folders add options to the packaged ones.
"""

import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from gnnscale.core.errors import UsageError

GROUPS = (
    "dataset",
    "sampler",
    "architecture",
    "distillation",
    "quantization",
    "hardware",
    "trainer",
    "optimizer",
    "scheduler",
    "logger",
    "recipe",
    "inference",
    "experiment",
)
TABLES = "table"
"""The folder of published tables, which `gnnscale reproduce` reads; no group of the composition."""
PRIMARY = "train.yaml"
LOCAL = "gnnscale_conf"
VARIABLE = "GNNSCALE_CONFIG_DIR"
CONFIG_DIR = ("--config-dir", "-cd")

_PACKAGE = re.compile(r"#\s*@package\s+(\S+)")
_BRACKETS = re.compile(r"\(((?:[^()]|\([^()]*\))*)\)")
_YEAR = re.compile(r"\b(19|20)\d\d\b|arXiv")
_FLOAT = re.compile(
    r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF))$"
    r"|\.[\d_]+([eE][-+]?\d+)?$|\.(nan|NaN|NAN)$"
)


@cache
def _loader() -> type:
    """A YAML loader that reads 1e-3 as a number and dates as text, as OmegaConf does."""
    import yaml

    rules = {
        first: [rule for rule in rules if not rule[0].endswith(("timestamp", "float"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader: Any = type("Loader", (base,), {"yaml_implicit_resolvers": rules})
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return loader


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UsageError if the file is not one."""
    import yaml

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as cause:
        reason = " ".join(str(cause).split())
        raise UsageError(f"{path}: cannot be read as YAML: {reason}") from cause
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must hold `key: value` lines, not a {type(content).__name__}")
    return content


@dataclass(frozen=True)
class Option:
    """One YAML of a group."""

    name: str
    group: str
    path: Path

    @cached_property
    def _head(self) -> tuple[str, ...]:
        """The leading comment lines."""
        lines = []
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in map(str.strip, file):
                if line.startswith("#"):
                    lines.append(line)
                elif line:
                    break
        return tuple(lines)

    @cached_property
    def package(self) -> str | None:
        """Where the YAML lands if not under its group: the ``# @package`` directive."""
        found = (_PACKAGE.match(line) for line in self._head)
        return next((match[1] for match in found if match), None)

    @cached_property
    def _described(self) -> tuple[str, str]:
        line = next((c for c in self._head if not _PACKAGE.match(c)), "").lstrip("# ")
        papers = [m for m in _BRACKETS.finditer(line) if _YEAR.search(m[1])]
        if not papers:
            return line, ""
        last = papers[-1]
        rest = f"{line[: last.start()].rstrip()}{line[last.end() :]}"
        return rest.rstrip(" ."), last[1].strip()

    @property
    def summary(self) -> str:
        """The first comment line without the paper."""
        return self._described[0]

    @property
    def paper(self) -> str:
        """The last part in parentheses that holds a year or an arXiv number, or nothing."""
        return self._described[1]

    @cached_property
    def content(self) -> dict[str, Any]:
        """The parsed YAML, over those of its folder that its defaults list names (``_name``)."""
        content = read(self.path)
        merged: dict[str, Any] = {}
        for entry in content.get("defaults") or ():
            if isinstance(entry, str) and entry.startswith("_") and entry != "_self_":
                merged |= read(self.path.parent / f"{entry}.yaml")
        return merged | {k: v for k, v in content.items() if k != "defaults" or not merged}

    @property
    def target(self) -> str | None:
        """What ``_target_`` names, if anything."""
        return self.content.get("_target_")

    @property
    def parameters(self) -> dict[str, Any]:
        """Keys and default values, without ``_target_`` and its like."""
        return {
            str(key): value
            for key, value in self.content.items()
            if not str(key).startswith("_") and key != "defaults"
        }


class Catalog:
    """The options in several config folders; two of one group may not share a name.

    Args:
        folders: config folders, the packaged one first.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = tuple(Path(folder) for folder in folders)
        self._options: dict[str, dict[str, Option]] = {}

    @classmethod
    def load(cls, extra_dirs: Sequence[Path] = ()) -> "Catalog":
        """The packaged options plus the user's."""
        return cls([packaged(), *extra_dirs])

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The thirteen groups, then the user's own by name."""
        found = {
            folder.name
            for parent in self.folders
            if parent.is_dir()
            for folder in parent.iterdir()
            if folder.is_dir() and not folder.name.startswith((".", "_"))
        }
        own = sorted(found - set(GROUPS) - {"hydra", TABLES})
        return (*GROUPS, *(group for group in own if self.options(group)))

    def options(self, group: str) -> dict[str, Option]:
        """The options of a group by name; empty if there is no such group."""
        if group not in self._options:
            found = {}
            for folder in self.folders:
                root = folder / group
                for path in sorted(root.rglob("*.yaml")) if root.is_dir() else ():
                    parts = path.relative_to(root).with_suffix("").parts
                    if not any(part.startswith((".", "_")) for part in parts):
                        name = "/".join(parts)
                        if name in found:  # Hydra would silently take the first one
                            raise UsageError(
                                f"{path}: {found[name].path} is a {group} of the same name; "
                                "rename yours"
                            )
                        found[name] = Option(name, group, path)
            self._options[group] = dict(sorted(found.items()))
        return self._options[group]

    @cached_property
    def primary(self) -> dict[str, Any]:
        """The parsed train.yaml."""
        for folder in reversed(self.folders):
            if (folder / PRIMARY).is_file():
                return read(folder / PRIMARY)
        return {}

    @cached_property
    def defaults(self) -> dict[str, str | list[str] | None]:
        """What each group in the defaults list of train.yaml starts with."""
        chosen: dict[str, str | list[str] | None] = {}
        for entry in self.primary.get("defaults") or ():
            for key, value in entry.items() if isinstance(entry, dict) else ():
                key = key.split()[-1].lstrip("/")  # `optional /group` is as good as `group`
                if not key.startswith("hydra/"):
                    chosen[key] = value
        return chosen

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The keys of train.yaml that belong to no group, with their defaults."""
        reserved = {"defaults", "hydra", *self.groups}
        return {key: value for key, value in self.primary.items() if key not in reserved}

    @cached_property
    def parameters(self) -> dict[str, list[Option]]:
        """Every parameter name and the options that have it, experiments aside."""
        found: dict[str, list[Option]] = {}
        for group in self.groups:
            for option in self.options(group).values() if group != "experiment" else ():
                for name in option.parameters:
                    found.setdefault(name, []).append(option)
        return found

    def homes(self, name: str) -> list[str]:
        """The full keys of a parameter: those of options selected by default, else of any."""
        every, chosen = [], []
        for option in self.parameters.get(name, ()):
            default = self.defaults.get(option.group)
            term = f"{option.name}." if isinstance(default, list) else ""
            every.append(f"{option.group}.{term}{name}")
            if option.name in (default if isinstance(default, list) else [default]):
                chosen.append(every[-1])
        return list(dict.fromkeys(chosen or every))


def packaged() -> Path:
    """The folder of the packaged options, installed or in a source checkout."""
    spec = importlib.util.find_spec("gnnscale.conf")
    places = list(spec.submodule_search_locations or ()) if spec else []
    places.append(str(Path(__file__).resolve().parent.parent / "conf"))
    for place in map(Path, places):
        if place.is_dir():
            return place
    raise UsageError(f"{places[-1]}: the packaged options are missing; reinstall gnnscale")


def _asked(argv: Sequence[str]) -> Iterator[str]:
    """The values of --config-dir."""
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in CONFIG_DIR:
            continue
        value = value if equals else next(words, "")
        if not value:
            raise UsageError(f"{name}: which folder? type {name} DIR")
        yield value


def user_folders(argv: Sequence[str]) -> list[Path]:
    """The user's config folders, each once.

    These are ./gnnscale_conf and $GNNSCALE_CONFIG_DIR where they exist, and --config-dir.
    Raises UsageError if a --config-dir does not exist.
    """
    places = [Path(LOCAL)]
    if os.environ.get(VARIABLE):
        places.append(Path(os.environ[VARIABLE]).expanduser())
    found = [place.resolve() for place in places if place.is_dir()]
    for value in _asked(argv):
        place = Path(value).expanduser()
        if not place.is_dir():
            raise UsageError(
                f"--config-dir {value}: no such folder; give one that holds <group>/<option>.yaml"
            )
        found.append(place.resolve())
    return [place for i, place in enumerate(found) if place not in found[i + 1 :]]
