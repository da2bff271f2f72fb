"""The command line: verbs, each a thin entry point. torch and DGL load only when a run starts."""

import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

from gnnscale import __version__
from gnnscale.catalog import Catalog, user_folders
from gnnscale.core import compiler
from gnnscale.core.errors import UsageError, unknown
from gnnscale.overrides import ALIASES, parse

VS = "--vs"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    compiler.sleep()
    try:
        code = dispatch(words)
    except UsageError as error:
        sys.stderr.write(f"gnnscale: {error}\n")
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def dispatch(words: list[str]) -> int:
    """Find the verb and run it."""
    from gnnscale.verbs import bench, check, convert, help, listing, predict, train

    simple: dict[str, Callable[[list[str]], int]] = {
        "list": listing.list_options, "report": report, "doctor": doctor, "completion": completion,
        "_complete": complete, "reproduce": reproduce,
    }  # fmt: skip
    if words and words[0] in simple:
        return simple[words[0]](words[1:])
    words, others = _versus(words)
    request = parse(words)
    if others and request.verb != "bench":
        raise UsageError(f"{VS}: compares in gnnscale bench only; type gnnscale bench ... {VS} ...")
    catalog = Catalog.load(user_folders(words))
    if "--version" in request.flags:
        say(__version__)
        return 0
    if request.verb == "bench" and {"-h", "--help"} & set(request.flags):
        say(help.BENCH)
        return 0
    if request.verb is None or request.verb == "help" or {"-h", "--help"} & set(request.flags):
        say(help.text(catalog))
        return 0
    if request.verb in simple:
        return simple[request.verb]([w for w in words if w != request.verb])
    if request.verb == "bench":
        return bench.bench(request, others, catalog)
    verbs = {"train": train.train, "check": check.check, "predict": predict.predict,
             "convert": convert.convert}  # fmt: skip
    return verbs[request.verb](request, catalog)


def _versus(words: list[str]) -> tuple[list[str], list[list[str]]]:
    """The words before the first ``--vs``, with all flags, and the overrides after each."""
    ends = [*(at for at, word in enumerate(words) if word == VS), len(words)]
    own, others = words[: ends[0]], []
    for at, end in pairwise(ends):
        found = parse(["bench", *words[at + 1 : end]])
        own, others = [*own, *found.flags], [*others, list(found.overrides)]
    return own, others


def say(text: str) -> None:
    """One result to standard output; everything else goes to the log on standard error."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


# -- verbs whose work is done by a part of their own ----------------------------------------------


def report(words: list[str]) -> int:
    """``gnnscale report [folder ...]``: see ``gnnscale report --help``."""
    from gnnscale.report.command import report as made

    text, code = made(words, ALIASES)
    say(text)
    return code


def doctor(words: list[str]) -> int:
    """``gnnscale doctor``."""
    from gnnscale import doctor as checks

    return 0 if checks.render(checks.report()) else 1


def completion(words: list[str]) -> int:
    """``gnnscale completion bash|zsh|fish``."""
    from gnnscale.completion import script

    valid = ("bash", "zsh", "fish")
    if len(words) != 1 or words[0] not in valid:
        raise UsageError(f"{unknown('shell', ' '.join(words), valid)}; e.g. "
                         'eval "$(gnnscale completion bash)"')  # fmt: skip
    say(script(words[0]))
    return 0


def complete(words: list[str]) -> int:
    """The hidden verb that the shells' scripts call."""
    from gnnscale.completion import answer

    say("\n".join(answer(words[0] if words else "")))
    return 0


def reproduce(words: list[str]) -> int:
    """``gnnscale reproduce table=NAME | --list | --document FILE``."""
    from gnnscale import jobs
    from gnnscale.reproduce import verb

    jobs.set_up_log()

    return verb.reproduce(words, Catalog.load(user_folders(words)), say)
