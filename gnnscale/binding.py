"""Classes behind dotted paths, and arguments bound to their signatures; every problem is collected.

Only classes of gnnscale, of torch.optim or of a package that the user has trusted on the command
line are ever imported.
"""

import importlib
import inspect
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gnnscale.core.errors import UsageError, unknown
from gnnscale.core.traits import Component

BUILT_IN = frozenset({"gnnscale", "torch.optim"})
GIVEN_LATER = {"architecture": ("shape",), "optimizer": ("params",), "scheduler": ("optimizer",)}
"""Arguments that a run supplies when it exists; everything else comes from the configuration."""
FOREIGN = ("optimizer", "scheduler")
"""Groups whose classes are torch's."""


@dataclass(frozen=True)
class Bound:
    """One chosen option: its class and the arguments that fit its signature."""

    group: str
    option: str
    cls: type
    arguments: Mapping[str, Any]

    def make(self, *given: Any) -> Any:
        """Construct it, with what only a run can supply in front."""
        return self.cls(*given, **self.arguments)

    def altered(self, changes: Mapping[str, Any]) -> "Bound":
        """With other arguments. Raises UsageError for one it does not have, or a wrong value."""
        later = GIVEN_LATER.get(self.group, ())
        accepted = [n for n in inspect.signature(self.cls).parameters if n not in later]
        problems = [
            f"{self.group}.{name}: {unknown('key', name, accepted)}"
            for name in changes
            if name not in accepted
        ]
        problems += wrong_values(self.group, self.cls, changes)
        if problems:
            raise UsageError("\n".join(problems))
        return replace(self, arguments={**self.arguments, **changes})


def resolve(target: Any, trusted: frozenset[str]) -> type:
    """The class behind a dotted path. Raises UsageError if it is not trusted or not there."""
    if not isinstance(target, str) or "." not in target:
        raise UsageError(f"_target_={target!r}: not a dotted path to a class")
    if not _within(target, trusted):
        package = target.split(".")[0]
        raise UsageError(
            f"_target_={target}: package '{package}' is not trusted, so nothing of it is imported; "
            f"type trust={package} on the command line if you trust its code"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"_target_={target}: can't be imported ({error})") from error
    if not isinstance(found, type):
        raise UsageError(f"_target_={target}: not a class")
    if not _within(found.__module__ + ".", trusted):  # a name that a trusted module imported
        raise UsageError(f"_target_={target}: {found.__name__} is defined in {found.__module__}")
    return found


def _within(path: str, trusted: frozenset[str]) -> bool:
    return any(path == root or path.startswith(root + ".") for root in BUILT_IN | trusted)


def nodes(group: str, node: Any, option: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(key, option, node) of every component configured under a group."""
    if not node:
        return
    if isinstance(node, Mapping) and "_target_" in node:
        yield group, option, node
    elif group == "recipe":
        for i, stage in enumerate(node["stages"]):
            yield f"{group}.stages[{i}]", option, stage
    elif all(isinstance(part, Mapping) for part in node.values()):  # several options, by name
        for name, part in node.items():
            yield f"{group}.{name}", name, part
    else:
        yield group, option, node


def bind(
    key: str, group: str, option: str, node: Any, trusted: frozenset[str]
) -> tuple[Bound | None, list[str]]:
    """One component bound to its class's signature, or every reason why it can't be."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        if key != group:
            return None, [f"{key}: '{option}' is not selected; type {group}={option} too"]
        said = ", ".join(f"{group}.{name}={value}" for name, value in node.items())
        return None, [
            f"{said}: {group}={option} takes no keys; `gnnscale list {group}` shows what does"
        ]
    try:
        cls = resolve(node["_target_"], trusted)
    except UsageError as error:
        return None, [f"{group}={option}: {error}"]
    if group not in FOREIGN and not issubclass(cls, Component):
        return None, [f"{group}={option}: {cls.__name__} is no {group}; derive it from the base "
                      "class of its group (docs/adding-a-method.md)"]  # fmt: skip
    arguments = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    signature = inspect.signature(cls)
    later = GIVEN_LATER.get(group, ())
    accepted = {n: p for n, p in signature.parameters.items() if n not in later}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    problems = [
        f"{key}.{name}: {unknown('key', name, accepted)}"
        for name in arguments
        if name not in accepted and not open_ended
    ]
    problems += [
        f"{key}.{name}: has no value; type {key}.{name}=..."
        for name, p in accepted.items()
        if p.default is p.empty and name not in arguments
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]  # fmt: skip
    if not cls.__module__.startswith("torch."):
        problems += wrong_values(key, cls, arguments)
    return Bound(group, option, cls, arguments), problems


@cache
def adapter(cls: type, name: str) -> TypeAdapter | None:
    """What checks one argument of a class's constructor; None if it is not annotated."""
    hints = typing.get_type_hints(typing.cast(Any, cls).__init__, include_extras=True)
    if name not in hints:
        return None
    return TypeAdapter(hints[name], config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def wrong_values(key: str, cls: type, arguments: Mapping[str, Any]) -> list[str]:
    """Values outside the type or range that the constructor's annotations state."""
    problems = []
    for name, value in arguments.items():
        check = adapter(cls, name)
        if check is None:
            continue
        try:
            check.validate_python(value)
        except ValidationError as error:
            said = dict.fromkeys(
                e["msg"][0].lower() + e["msg"][1:] for e in error.errors() if e["type"] != "none"
            )
            problems.append(f"{key}.{name}={value}: {' or '.join(said)}")
    return problems


def trust(typed: Iterable[str], environment: str = "") -> frozenset[str]:
    """Packages the user trusts, from what was typed or the environment, never from a YAML file.

    The current folder becomes importable if there are any.
    """
    names: set[str] = set(filter(None, environment.replace(",", " ").split()))
    for override in typed:
        key, _, value = override.lstrip("+").partition("=")
        if key == "trust":
            names |= set(filter(None, value.strip("[]").replace(",", " ").split()))
    if names and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return frozenset(names)
