"""The command line before Hydra sees it: verb, flags, and overrides in the one form that works.

Hydra wants ``group=option``, ``+group=option`` or ``++key=value`` depending on what the primary
config happens to list, and answers a wrong guess with an error or, worse, with a new key that
nothing reads. Here all three prefixes mean the same and the right one is put in place. Only keys
are rewritten; values, sweeps included, stay as typed (a null among options aside, see `_pick`).
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gnnscale.catalog import Catalog, user_folders
from gnnscale.core.errors import UsageError, closest, unknown

VERBS = ("train", "check", "list", "predict", "convert", "bench", "report", "reproduce", "doctor",
         "completion")  # fmt: skip
HIDDEN = "_complete"
ALIASES = {
    "arch": "architecture",
    "model": "architecture",
    "data": "dataset",
    "quant": "quantization",
    "distill": "distillation",
    "opt": "optimizer",
}
FLAGS = {
    "--multirun": "-m",
    "--cfg": "-c",
    "--resolve": "",
    "--package": "-p",
    "--config-dir": "-cd",
    "--info": "-i",
    "--hydra-help": "",
    "--help": "-h",
    "--version": "",
}
VALUED = {  # flags that take a value, and the values they take ((): any)
    "--cfg": ("job", "hydra", "all"),
    "--package": (),
    "--config-dir": (),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
REFUSED = ("--config-name", "-cn", "--config-path", "-cp")
FREE = "user"  # head of the keys that are the user's own
FOLDER = ("out", "output", "outdir", "dir", "folder")  # what other tools call the run's folder

_SHORT = {short: name for name, short in FLAGS.items() if short}
_KEY = re.compile(r"(\+\+|\+|~)?([^.@/=]*)([^=]*)(=?)(.*)", re.DOTALL)
_SWEEP = re.compile(r"(glob|choice|range|interval|shuffle|sort|tag)\s*\((.*)\)", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """What was typed: verb, flags by their long names with their values, and the other words."""

    verb: str | None
    flags: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


def parse(argv: Sequence[str], catalog: Catalog | None = None) -> Request:
    """Sort the words of a command line.

    The verb may stand anywhere; it is the first word without ``=`` that is neither a flag, a
    flag's value nor prefixed by ``+`` or ``~``. Later such words stay among the overrides.

    Args:
        argv: the command line without the program's name.
        catalog: for the suggestions; loaded when one is needed.

    Raises: UsageError naming every unknown verb and flag.
    """
    if argv and argv[0] == HIDDEN:
        return Request(HIDDEN, (), tuple(argv[1:]))
    verb: str | None = None
    flags: list[str] = []
    overrides: list[str] = []
    problems: list[str] = []
    words = list(argv)

    def options() -> Catalog:
        nonlocal catalog
        catalog = catalog or Catalog.load(user_folders(argv))
        return catalog

    while words:
        word = words.pop(0)
        if word.startswith("-"):
            try:
                flags += _flag(word, words, options)
            except UsageError as problem:
                problems.append(str(problem))
        elif verb is None and "=" not in word and not word.startswith(("~", "+")):
            verb = word
            if verb not in VERBS:
                hint = _bare_hint(verb, options())
                problems.append(unknown("verb", verb, VERBS) + (f"; {hint}" if hint else ""))
        else:
            overrides.append(word)
    if problems:
        raise UsageError("\n".join(problems))
    return Request(verb, tuple(flags), tuple(overrides))


def _flag(word: str, words: list[str], options) -> list[str]:
    """A flag and its value, taken off ``words``."""
    typed, equals, value = word.partition("=")
    name = _SHORT.get(typed, typed)
    if name in REFUSED:
        raise UsageError(f"{typed}: the primary config is fixed; put settings into an experiment")
    if name not in FLAGS:
        if not equals and words and not words[0].startswith(("-", "+", "~")):
            takes = "=" not in words[0] and words[0] not in VERBS
            value = words.pop(0) if takes else ""
        raise UsageError(_flag_hint(typed, value, options()))
    if name not in VALUED:
        if equals:
            raise UsageError(f"{word}: {typed} takes no value")
        return [name]
    valid = VALUED[name]
    if not equals:
        if name == "--info" and (not words or words[0] not in valid):
            return [name]
        value = words.pop(0) if words else ""
    if not value or (valid and value not in valid):
        shown = " | ".join(valid) or "VALUE"
        raise UsageError(f"{typed} {value}".rstrip() + f": type {typed} {shown}")
    return [name, value]


def _flag_hint(typed: str, value: str, catalog: Catalog) -> str:
    key = typed.lstrip("-").replace("-", "_")
    value = value or "VALUE"
    head = ALIASES.get(key.split(".")[0], key.split(".")[0])
    if head in catalog.groups or head in catalog.keys:
        return f"{typed}: settings are not flags; type {key}={value}"
    if paths := catalog.homes(key):
        return f"{typed}: settings are not flags; type {_either(paths, value)}"
    flags = {flag.lstrip("-").replace("-", "_"): flag for flag in FLAGS}
    names = [*flags, *_heads(catalog), *catalog.parameters]
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if near and near[0] in flags:
        return f"flag '{typed}' does not exist (did you mean '{flags[near[0]]}'?)"
    if hint := _head_hint(key, value, catalog):
        return f"{typed}: settings are not flags; {hint}"
    return f"{unknown('flag', typed, FLAGS)}; settings are typed as key=value"


def normalise(overrides: Sequence[str], catalog: Catalog, own: Sequence[str] = ()) -> list[str]:
    """Overrides as Hydra wants them. Raises one UsageError with a line per bad override.

    own: keys that a verb reads itself; what they are set to is left out.
    """
    done: list[tuple[str, str]] = []
    problems = []
    for text in overrides:
        if text.lstrip("+~").partition("=")[0] in own:
            continue
        try:
            key, word = _one(text, catalog, own)
        except UsageError as problem:
            problems.append(str(problem))
            continue
        if word is None:  # back to nothing selected, whatever was typed before
            done = [kept for kept in done if kept[0] != key]
        else:
            done.append((key, word))
    if problems:
        raise UsageError("\n".join(problems))
    return [word for _, word in done]


def _one(text: str, catalog: Catalog, own: Sequence[str]) -> tuple[str, str | None]:
    """(key, the override for Hydra); None in place of the override drops it."""
    match = _KEY.fullmatch(text)
    assert match  # every part of the pattern may be empty
    prefix, head, tail, equals, value = match.groups()
    head = head.strip()
    if head == "hydra":
        if equals and not value.strip() and tail.endswith(".dir"):
            raise UsageError(f"{text}: no folder given; type {head + tail}=DIR")
        return head + tail, text
    if head not in catalog.groups and head not in catalog.keys:
        head = ALIASES.get(head, head)
    key = head + tail.strip()
    if not equals and prefix != "~":
        raise UsageError(_bare(text, head, key, catalog))
    if not head or re.search(r"[.@/](?:[.@/]|$)", key):
        raise UsageError(f"{text}: the key before '=' is incomplete; type key=value")
    if head not in (*catalog.groups, *catalog.keys, FREE):
        near = difflib.get_close_matches(head, own, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}={value}'?" if near else _head_hint(key, value, catalog)
        keys = [*own, *catalog.keys, f"{FREE}.*"]
        raise UsageError(
            f"{text}: '{head}' is neither a group nor a key{f'; {hint}' if hint else ''}; "
            f"groups: {', '.join(catalog.groups)}; keys: {', '.join(keys)}"
        )
    if head in catalog.groups and tail.startswith("/"):
        nested = key.removeprefix(f"{head}/")
        raise UsageError(f"{text}: '{key}' is not a group; type {head}={nested}/{value}")
    if head not in catalog.groups and tail.startswith(("@", "/")):
        raise UsageError(f"{text}: only a group takes '{tail[0]}'; type {head}={value}")
    if prefix == "~":
        return _remove(text, key, value, catalog)
    if head in catalog.groups and not tail.startswith("."):
        return _select(key, value, catalog)
    if head in catalog.groups:
        _check_term(text, key, value, catalog)
    elif head in catalog.keys:
        return _set(text, key, value, catalog)
    return key, f"++{key}={value}"


def _set(text: str, key: str, value: str, catalog: Catalog) -> tuple[str, str]:
    """A key of train.yaml that belongs to no group."""
    head, dot, _ = key.partition(".")
    default = catalog.keys[head]
    if dot:
        if default is not None and not isinstance(default, dict):
            raise UsageError(f"{text}: {head} has no parts; type {head}={value}")
        return key, f"++{key}={value}"
    start = value.lstrip()[:1]
    if head == "teacher" and start != "{":
        return "teacher.run", f"++teacher.run={value}"
    if head == "trust" and value.strip().lower() != "null":
        return key, f"++trust={value}" if start == "[" else f"++trust=[{value}]"
    return key, f"{'++' if start == '{' else ''}{key}={value}"


def _select(key: str, value: str, catalog: Catalog) -> tuple[str, str | None]:
    """``group=option`` or ``group@package=option``."""
    listed = "" if key in catalog.defaults else "+"
    if value.lstrip().startswith("{"):
        if not value.strip().strip("{} "):
            raise UsageError(f"{key}={value}: sets nothing; valid: "
                             f"{', '.join(catalog.options(key.split('@')[0]))}")  # fmt: skip
        return key, f"++{key}={value}"
    pieces = _pieces(value)
    picked = [_pick(key, piece, catalog) for piece in pieces]
    if picked == ["[]"]:
        return key, None
    return key, f"{listed}{key}={value if picked == pieces else ','.join(picked)}"


def _pick(key: str, piece: str, catalog: Catalog) -> str:
    """Check one choice. A null becomes [], which Hydra takes for nothing (null makes it crash)."""
    group = key.split("@")[0]
    options = catalog.options(group)
    default = catalog.defaults.get(key)
    word = piece.strip()
    if "${" in word:
        return piece
    if sweep := _SWEEP.fullmatch(word):
        if sweep[1] == "choice":
            inner = [_pick(key, part, catalog) for part in _pieces(sweep[2])]
            return f"choice({','.join(inner)})"
        return piece
    if word.startswith("[") and word.endswith("]"):
        parts = _pieces(word[1:-1])
        kept = [part for part in parts if part.strip().lower() not in ("", "null")]
        for part in kept:
            _known(group, part, options)
        names = [_unquoted(part) for part in kept]
        if (
            len(kept) > 1
            and isinstance(default, str)
            and not all(options[n].package for n in names)
        ):
            raise UsageError(
                f"{key}={word}: takes one option; type {key}={names[0]}, "
                f"or -m {key}={','.join(names)} to run each"
            )
        if kept:
            return piece if kept == parts else f"[{','.join(kept)}]"
        if isinstance(default, list) and "none" in options:
            return "[none]"
        word = "null"
    if word.lower() == "null":
        if default is None:
            return "[]"
        raise UsageError(f"{key}=null: {_instead(key, catalog)}; valid: {', '.join(options)}")
    if not word:
        raise UsageError(f"{key}=: no option given; valid: {', '.join(options)}")
    _known(group, word, options)
    return piece


def _known(group: str, word: str, options) -> None:
    if _unquoted(word) not in options:
        raise UsageError(unknown(group, _unquoted(word), options))


def _unquoted(word: str) -> str:
    return word.strip().strip("'\"")


def _instead(key: str, catalog: Catalog) -> str:
    """What to type when a group cannot be empty."""
    if "none" in catalog.options(key.split("@")[0]):
        return f"type {key}=none"
    return f"a choice is needed; type {key}=OPTION (the default is {catalog.defaults.get(key)})"


def _remove(text: str, key: str, value: str, catalog: Catalog) -> tuple[str, str | None]:
    """``~key``: harmless for what is off by default, refused where something must remain."""
    head, dot, _ = key.partition(".")
    group = head.split("@")[0]
    if group in catalog.groups and not dot:
        if catalog.defaults.get(key) is None:
            return key, None
        raise UsageError(f"{text}: a group cannot be removed; {_instead(key, catalog)}")
    if group in catalog.keys:
        default = None if dot or isinstance(catalog.keys[head], dict) else catalog.keys[head]
        raise UsageError(f"{text}: a key cannot be removed; type {key}={json.dumps(default)}")
    return key, f"~{key}={value}" if value else f"~{key}"


def _check_term(text: str, key: str, value: str, catalog: Catalog) -> None:
    """In a group whose options compose as a list, a key names its option first."""
    group, name = key.split(".")[:2]
    if not isinstance(catalog.defaults.get(group), list):
        return
    options = catalog.options(group)
    packages = (option.package or "" for option in options.values())
    if name in options or name in {package.split(".")[-1] for package in packages}:
        return
    paths = [path for path in catalog.homes(name) if path.startswith(f"{group}.")]
    if paths:
        raise UsageError(f"{text}: name the option too; type {_either(paths, value)}")
    raise UsageError(f"{text}: {unknown(group, name, options)}")


def _bare(text: str, head: str, key: str, catalog: Catalog) -> str:
    """A word that is no override."""
    hint = _bare_hint(key, catalog)
    if not hint and head in (*catalog.groups, *catalog.keys, FREE):
        hint = f"type {key}=VALUE"
    near = closest(text, VERBS)
    return f"'{text}' is not key=value{near if not hint else ''}; {hint or 'type key=value'}"


def _bare_hint(word: str, catalog: Catalog) -> str:
    """What a word without ``=`` may have meant, if that is clear."""
    word = ALIASES.get(word, word)
    if word in catalog.groups:
        return f"type {word}=OPTION, e.g. {word}={next(iter(catalog.options(word)), 'OPTION')}"
    if word in catalog.keys:
        return f"type {word}=VALUE"
    found = [f"{group}={word}" for group in catalog.groups if word in catalog.options(group)]
    return f"type {_some(found)}" if found else ""


def _head_hint(key: str, value: str, catalog: Catalog) -> str:
    """What a key with an unknown head may have meant."""
    head = re.split(r"[.@/]", key)[0]
    if paths := catalog.homes(key):
        return f"type {_either(paths, value)}"
    if key in FOLDER:
        return f"the run's folder is hydra.run.dir={value}"
    heads = _heads(catalog)
    near = difflib.get_close_matches(head, [*heads, *catalog.parameters], n=1, cutoff=0.6)
    if not near:
        return ""
    if near[0] in heads:
        return f"did you mean '{near[0]}{key.removeprefix(head)}={value}'?"
    return f"did you mean '{_either(catalog.homes(near[0]), value)}'?"


def _heads(catalog: Catalog) -> list[str]:
    return [*catalog.groups, *ALIASES, *catalog.keys, FREE]


def _either(paths: list[str], value: str) -> str:
    return _some([f"{path}={value}" for path in paths])


def _some(words: list[str]) -> str:
    return " or ".join(words[:3]) + (" or ..." if len(words) > 3 else "")


def _pieces(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    pieces, depth, quote = [""], 0, ""
    for c in text:
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        else:
            depth += (c in "([{") - (c in ")]}")
        if c == "," and not depth and not quote:
            pieces.append("")
        else:
            pieces[-1] += c
    return pieces
