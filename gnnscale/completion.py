"""Tab completion: what may follow on a command line, and the script each shell needs to ask.

A script calls ``gnnscale _complete "<the line up to the cursor>"`` and gets one candidate per
line, each the whole word under the cursor (from its last blank on) with its continuation.
"""

import shlex
from collections.abc import Iterator, Sequence

from gnnscale.catalog import TABLES, Catalog, user_folders
from gnnscale.core.errors import UsageError, unknown
from gnnscale.overrides import ALIASES, FLAGS, VALUED, VERBS

OPEN = ("=", ".", ",", "[")
"""A candidate that ends in one of these goes on, so no blank may follow it."""
PEERS = ("dgl", "pyg")
"""What ``gnnscale bench`` compares with."""
PLAIN = ("list", "report", "doctor", "completion")
"""Verbs that take no overrides."""

# bash cuts words at COMP_WORDBREAKS (`=` is one) and replaces only the last piece, so the part
# of each candidate before that piece is taken off again. Without candidates it offers files.
BASH = r"""_gnnscale() {
    local line="${COMP_LINE:0:COMP_POINT}" breaks="[${COMP_WORDBREAKS}]" word last reply
    word="${line##*[[:space:]]}"
    last="${word##*$breaks}"
    COMPREPLY=()
    while IFS= read -r reply; do
        [[ -n $reply ]] || continue
        [[ $reply == *[=.,\[] ]] && compopt -o nospace 2>/dev/null
        COMPREPLY+=("${reply:$((${#word} - ${#last}))}")
    done < <("${1/#\~/$HOME}" _complete "$line" 2>/dev/null)
}
complete -o bashdefault -o default -F _gnnscale gnnscale
"""

ZSH = r"""#compdef gnnscale
_gnnscale() {
    local line="${(j: :)words[1,CURRENT-1]} ${IPREFIX}${PREFIX}"
    local -a replies
    replies=("${(@f)$("${words[1]/#\~/$HOME}" _complete "$line" 2>/dev/null)}")
    replies=(${replies:#})
    if (( ! $#replies )); then
        _files
        return
    fi
    compadd -Q -S '' -- ${(M)replies:#*[=.,\[]}
    compadd -Q -- ${replies:#*[=.,\[]}
}
if [[ $funcstack[1] == _gnnscale ]]; then
    _gnnscale "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _gnnscale gnnscale
fi
"""

FISH = r"""function __gnnscale_complete
    set -l line (commandline -cp | string collect)
    set -l program (commandline -opc)[1]
    set -l replies ($program _complete "$line" 2>/dev/null | string match -v '')
    if test (count $replies) -gt 0
        printf '%s\n' $replies
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c gnnscale -f -a '(__gnnscale_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def script(shell: str) -> str:
    """The text to source, e.g. ``source <(gnnscale completion bash)``.

    Raises: UsageError for a shell other than bash, zsh and fish.
    """
    if shell not in SCRIPTS:
        raise UsageError(unknown("shell", shell, SCRIPTS))
    return SCRIPTS[shell]


def answer(line: str) -> list[str]:
    """The candidates for a line up to the cursor, program name included; never an error."""
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        words = line.split()
    if not words or line[-1].isspace():
        words.append("")
    try:
        return complete(words[1:], Catalog.load(user_folders(words[1:-1])))
    except (UsageError, OSError):
        return []


def complete(words: Sequence[str], catalog: Catalog) -> list[str]:
    """The candidates for the last of ``words`` (without the program's name)."""
    before, word = list(words[:-1]), words[-1] if words else ""
    flag = before[-1] if before else ""
    flag = next((name for name, short in FLAGS.items() if flag and flag == short), flag)
    verb = next((w for w in before if w in VERBS), None)
    if word.startswith("-"):
        found = [*FLAGS, "--vs"] if verb == "bench" else [*FLAGS]
    elif flag in VALUED and flag != "--info":
        found = [*VALUED[flag]]
    elif verb == "completion":
        found = [*SCRIPTS]
    elif verb == "list":
        found = [*catalog.groups]
    elif verb == "reproduce":
        found = _published(word, catalog)
    elif verb in PLAIN:
        found = []
    else:
        found = [*VALUED.get(flag, ())]
        found += [] if verb or "=" in word else VERBS
        sign = word[: len(word) - len(word.lstrip("+"))][:2]
        rest = word.removeprefix(sign)
        found += [sign + reply for reply in _override(rest, before, catalog)]
        found += [f"peer={name}" for name in PEERS if verb == "bench"]
        found += (
            ["out=", *(f"only={part}" for part in ("train", "valid", "test"))]
            if verb == "predict"
            else []
        )
    return [reply for reply in dict.fromkeys(found) if reply.startswith(word)]


def _published(word: str, catalog: Catalog) -> list[str]:
    """What ``gnnscale reproduce`` takes: tables by name, and the rows of the table typed last."""
    key, equals, value = word.partition("=")
    stem = f"{key}={value[: value.rfind(',') + 1]}"
    if equals:
        return [f"{stem}{name}" for name in catalog.options(TABLES)] if key == "table" else []
    return [f"{key}=" for key in ("table", "rows", "seeds", "jobs", "out", "download", "budget")]


def _override(word: str, before: Sequence[str], catalog: Catalog) -> Iterator[str]:
    """Continuations of an override without its prefix."""
    key, equals, value = word.partition("=")
    typed, dot, rest = key.partition(".")
    typed, at, package = typed.partition("@")
    head = typed if typed in catalog.groups else ALIASES.get(typed, typed)
    if equals:
        stem = value[: max(value.rfind(","), value.rfind("[")) + 1]
        for choice in _values(head, dot + rest, before, catalog):
            yield f"{key}={stem}{choice}"
    elif dot:
        for name in _parameters(head, rest, before, catalog):
            yield f"{typed}{at}{package}.{name}"
    else:
        heads = [f"{name}=" for name in (*catalog.groups, *catalog.keys)]
        aliases = [f"{name}=" for name in ALIASES]
        yield from heads
        known = any(name.startswith(typed) for name in heads)
        if not known:
            yield from aliases
        if typed in catalog.groups or (typed in ALIASES and not known):  # complete: go on below
            yield from (f"{typed}=", f"{typed}.")
        elif isinstance(catalog.keys.get(head), dict):
            yield f"{typed}."


def _values(head: str, tail: str, before: Sequence[str], catalog: Catalog) -> list[str]:
    """Options of a group; true and false for a switch."""
    if not tail:
        default = catalog.keys.get(head)
        found = [*catalog.options(head)] if head in catalog.groups else []
    else:
        found = []
        *path, name = tail.removeprefix(".").split(".")
        default = _defaults(head, path, before, catalog).get(name)
    return ["true", "false"] if isinstance(default, bool) else found


def _parameters(head: str, rest: str, before: Sequence[str], catalog: Catalog) -> Iterator[str]:
    """``name=``, or ``name.`` where more follows, each with the path typed so far."""
    *path, _ = rest.split(".")
    stem = "".join(f"{part}." for part in path)
    for name, default in _defaults(head, path, before, catalog).items():
        yield f"{stem}{name}{'.' if isinstance(default, dict) and default else '='}"


def _defaults(head: str, path: Sequence[str], before: Sequence[str], catalog: Catalog) -> dict:
    """The keys and defaults at a path below a group (of its chosen options) or a key."""
    if head in catalog.keys:
        level = catalog.keys[head]
    else:
        names = _chosen(head, before, catalog)
        options = [o for name, o in catalog.options(head).items() if name in names]
        if isinstance(catalog.defaults.get(head), list):
            level = {option.name: option.parameters for option in options}
        else:
            level = {k: v for option in options for k, v in option.parameters.items()}
    for part in path:
        level = level.get(part) if isinstance(level, dict) else None
    return level if isinstance(level, dict) else {}


def _chosen(group: str, before: Sequence[str], catalog: Catalog) -> set[str]:
    """The options of a group chosen on the line so far, else the default ones."""
    default = catalog.defaults.get(group)
    chosen = {default} if isinstance(default, str) else set(default or ())
    for word in before:
        key, equals, value = word.lstrip("+").partition("=")
        if equals and group in (key, ALIASES.get(key)):
            chosen = {name.strip(" []'\"") for name in value.split(",")}
    return chosen
