"""The command line: verbs, each a thin entry point. torch and DGL load only when a run starts."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from gnnscale import __version__
from gnnscale.catalog import Catalog, user_folders
from gnnscale.core.errors import UsageError, unknown
from gnnscale.overrides import ALIASES, Request, normalise, parse

log = logging.getLogger("gnnscale")

HELP = """\
gnnscale {version}: train, compress, measure and compare efficient graph neural networks

  gnnscale train  [group=option ...] [key=value ...]   train, evaluate, write a run folder
  gnnscale check  [group=option ...] [key=value ...]   validate a composition without loading data
  gnnscale list   [group]                              groups, options, presets, papers
  gnnscale predict run=FOLDER [seed=K] [out=FILE.csv]  class probabilities of every node
  gnnscale bench  [run=FOLDER | group=option ...]      latency, memory, cost, distance from the
      [bench=quick] [--vs ...] [peer=dgl|pyg]          machine's bounds; gnnscale bench --help
  gnnscale report [folder ...] [--out report.html]     mean ± std tables and figures of runs
      [--rows KEY --columns KEY] [--help]              test scores by two keys, e.g. dataset
  gnnscale reproduce table=NAME | --list               published tables: run, compare, judge
  gnnscale doctor                                      what works on this machine
  gnnscale completion bash|zsh|fish                    tab completion for your shell

Groups (defaults in brackets; `gnnscale list GROUP` tells what each option is):
{groups}

Keys you will want:
  seed=3 seeds=10               first seed and how many; mean ± sample std is printed
  trainer.epochs=40             any parameter of any chosen option: group.key=value
  optimizer.lr=0.01 dataset.root=DIR
  hydra.run.dir=DIR resume=DIR  where the run goes; go on with one that was stopped
  trust=PACKAGE                 let _target_ in your YAMLs name classes of your own package
  -m sampler=full,saint         one run per combination      --config-dir DIR  your own options
  --cfg job                     print the composed configuration and stop

`+sampler=saint`, `sampler=saint` and `++sampler=saint` mean the same; model and arch stand for
architecture, data for dataset. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

BENCH = """\
gnnscale bench [run=FOLDER | group=option ...] [bench=quick] [bench.KEY=VALUE ...]
               [peer=dgl|pyg] [--vs group=option ... | --vs run=OTHER]

Measures latency (percentiles with intervals), peak memory per phase, parameters, bytes and
multiply-accumulates, and how far each kind of layer is from what this machine can do.

  run=FOLDER            the selected weights of a finished run (seed=K, a seed's folder or its
                        checkpoint.pt pick the seed); without it, a composition's fresh weights
  --vs WORDS ...        a second composition: these words on top of the first ones, or run=OTHER.
                        Requests are made in turn, A B B A; ratios are taken pair by pair
  peer=dgl | pyg        the same model from that library's layers and loaders, in turn with ours
  bench=quick           at least 30 requests and 1 s each, no memory phases (default: 200 and 5 s)
  bench.workloads=[full,query,step,epoch]   [] only counts      bench.scopes=[model,end2end]
  bench.queries=[1,32,1024]                 bench.trace=FOLDER  chrome traces
  `gnnscale list bench` shows every key

Examples:
  gnnscale bench dataset=cora architecture=gat bench=quick
  gnnscale bench run=runs/train/digits-full-gcn/20261123T204943040944-f4da
  gnnscale bench architecture=gcn --vs architecture=sage
  gnnscale bench dataset=synthetic architecture=gcn peer=dgl bench.workloads=[epoch]

Writes bench.json below runs/bench, or seed-K/bench/<time>.json beside the weights; the last line
is its path. How to read the figures: docs/measuring.md.
"""
VS = "--vs"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
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
    simple: dict[str, Callable[[list[str]], int]] = {
        "list": list_options, "report": report, "doctor": doctor, "completion": completion,
        "_complete": complete, "reproduce": reproduce,
    }  # fmt: skip
    if words and words[0] in simple:
        return simple[words[0]](words[1:])
    words, others = _versus(words)
    request = parse(words)
    if others is not None and request.verb != "bench":
        raise UsageError(f"{VS}: compares in gnnscale bench only; type gnnscale bench ... {VS} ...")
    catalog = Catalog.load(user_folders(words))
    if "--version" in request.flags:
        say(__version__)
        return 0
    if request.verb == "bench" and {"-h", "--help"} & set(request.flags):
        say(BENCH)
        return 0
    if request.verb is None or request.verb == "help" or {"-h", "--help"} & set(request.flags):
        say(help_text(catalog))
        return 0
    if request.verb in simple:
        return simple[request.verb]([w for w in words if w != request.verb])
    if request.verb == "bench":
        return bench(request, others, catalog)
    verbs = {"train": train, "check": check, "predict": predict}
    return verbs[request.verb](request, catalog)


def _versus(words: list[str]) -> tuple[list[str], list[str] | None]:
    """The words before ``--vs``, with all flags, and the overrides after it."""
    if VS not in words:
        return words, None
    at = words.index(VS)
    after = words[at + 1 :]
    if VS in after:
        raise UsageError(f"{VS}: compares two; type it once")
    found = parse(["bench", *after])
    return [*words[:at], *found.flags], list(found.overrides)


def say(text: str) -> None:
    """One result to standard output; everything else goes to the log on standard error."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def help_text(catalog: Catalog) -> str:
    """The help page, with the groups as they are."""
    lines = []
    for group in catalog.groups:
        default = catalog.defaults.get(group)
        shown = "+".join(default) if isinstance(default, list) else default
        names = " ".join(catalog.options(group))
        lines.append(f"  {group:<13}[{shown or 'off'}] {names}")
    return HELP.format(version=__version__, groups="\n".join(lines))


# -- list, report, doctor, completion -----------------------------------------------------------


def list_options(words: list[str]) -> int:
    """``gnnscale list [group ...]``."""
    from rich.console import Console
    from rich.table import Table

    flags = [w for w in words if w.startswith("-")]
    groups = [w for w in words if not w.startswith("-") and w not in _values(words)]
    if {"-h", "--help"} & set(flags):
        say("usage: gnnscale list [GROUP ...] [--config-dir DIR]")
        return 0
    catalog = Catalog.load(user_folders(words))
    aliases = {"presets": "experiment", "models": "architecture", "model": "architecture",
               "arch": "architecture", "data": "dataset"}  # fmt: skip
    valid = catalog.groups
    chosen = []
    for word in groups:
        name = aliases.get(word, word if word in valid else word.removesuffix("s"))
        if name not in valid:
            raise UsageError(unknown("group", word, [*valid, *aliases]))
        chosen.append(name)
    out = Console(width=None if sys.stdout.isatty() else 160)
    for group in chosen or valid:
        default = catalog.defaults.get(group)
        defaults = default if isinstance(default, list) else [default]
        table = Table("option", "what it is", "paper", title=group, title_justify="left",
                      show_edge=False)  # fmt: skip
        for name, option in catalog.options(group).items():
            mark = " (default)" if name in defaults else ""
            table.add_row(f"{name}{mark}", option.summary, option.paper)
        out.print(table)
        if chosen:
            for name, option in catalog.options(group).items():
                if option.parameters and group != "experiment":
                    keys = ", ".join(f"{k}={_short(v)}" for k, v in option.parameters.items())
                    out.print(f"  {group}={name}: {keys}", highlight=False, markup=False)
        out.print()
    return 0


def _values(words: list[str]) -> list[str]:
    """Words that are the value of --config-dir."""
    return [v for w, v in pairwise(words) if w in ("--config-dir", "-cd")]


def _short(value: Any) -> str:
    text = (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
    return text if len(text) < 60 else text[:57] + "..."


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


# -- check and train ----------------------------------------------------------------------------


def check(request: Request, catalog: Catalog) -> int:
    """``gnnscale check``: the resolved plan, no data loaded."""
    import yaml
    from rich.console import Console

    from gnnscale import binding, compose

    typed = normalise(request.overrides, catalog)
    trusted = binding.trust(typed, os.environ.get("GNNSCALE_TRUST", ""))
    plan = compose.check(*compose.compose(typed, catalog), catalog, trusted)
    out = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for group, bounds in plan.parts.items():
        for bound in bounds:
            out.print(
                f"[bold]{group}={bound.option}[/] {bound.cls.__module__}.{bound.cls.__name__}"
            )
            if bound.arguments:
                text = yaml.safe_dump(dict(bound.arguments), sort_keys=False).rstrip()
                out.print("\n".join("  " + s for s in text.splitlines()), markup=False)
    if plan.teacher is not None:
        parts = " ".join(f"{g}={o}" for g, o in plan.teacher.choices.items() if o)
        out.print(f"[bold]teacher[/] {parts}")
    out.print(f"seeds {', '.join(map(str, plan.seeds))}")
    out.print("the composition is valid")
    return 0


def train(request: Request, catalog: Catalog) -> int:
    """``gnnscale train``: through Hydra, or from a run folder with ``resume=``."""
    from gnnscale import binding, jobs

    jobs.set_up_log()
    typed = normalise(request.overrides, catalog)
    trusted = binding.trust(typed, os.environ.get("GNNSCALE_TRUST", ""))
    source = _value(typed, "run")
    if source not in (None, "null"):
        return rescore(Path(_plain(source)), typed, catalog, trusted)
    resume = _value(typed, "resume")
    if resume not in (None, "null"):
        return resume_run(Path(resume), typed, catalog, trusted)
    code, folder = jobs.Jobs(request, typed, catalog, trusted).run()
    if folder is not None:
        say(str(folder))
    return code


def rescore(folder: Path, typed: list[str], catalog: Catalog, trusted: frozenset[str]) -> int:
    """``gnnscale train recipe=evaluate run=FOLDER``: a run folder of fresh scores."""
    from gnnscale import finished, jobs

    if _value(typed, "recipe") != "evaluate":
        raise UsageError(f"run={folder}: only goes with recipe=evaluate; to go on training, type "
                         f"gnnscale train resume={folder}")  # fmt: skip
    into = _value(typed, "hydra.run.dir")
    where = Path(_plain(into)) if into else Path("runs/evaluate") / jobs.stamp()
    others = [o for o in typed if _key(o) not in ("run", "trust", "hydra.run.dir")]
    plan, seeds = finished.rescoring(folder, others, catalog, trusted)
    code = jobs.run_folder(plan, where, list(typed), seeds)
    if code == 0:
        say(str(where))
    return code


def predict(request: Request, catalog: Catalog) -> int:
    """``gnnscale predict run=FOLDER``: a table of predictions."""
    from gnnscale import binding, finished, jobs

    jobs.set_up_log()
    typed = normalise([o for o in request.overrides if _key(o) != "out"], catalog)
    trusted = binding.trust(typed, os.environ.get("GNNSCALE_TRUST", ""))
    source, seed = _value(typed, "run"), _value(typed, "seed")
    out = _value(request.overrides, "out")
    if request.flags:
        raise UsageError(f"{' '.join(request.flags)}: gnnscale predict takes run=, seed=, out= "
                         "and overrides of dataset, hardware and inference")  # fmt: skip
    if source in (None, "null", ""):
        raise UsageError("gnnscale predict: which run? type gnnscale predict run=FOLDER, the "
                         "folder that gnnscale train printed")  # fmt: skip
    if seed is not None and not seed.isdecimal():
        raise UsageError(f"seed={seed}: not a whole number >= 0; e.g. seed=0")
    others = [o for o in typed if _key(o) not in ("run", "seed", "trust")]
    written = finished.predict(
        Path(_plain(source)), others, None if seed is None else int(seed),
        Path(_plain(out)) if out else None, catalog, trusted,
    )  # fmt: skip
    say(str(written))
    return 0


def bench(request: Request, others: list[str] | None, catalog: Catalog) -> int:
    """``gnnscale bench``: measure, show, write."""
    from rich.console import Console

    from gnnscale import binding, jobs
    from gnnscale.bench.command import bench as measure
    from gnnscale.bench.show import show
    from gnnscale.core.errors import TrainingError

    jobs.set_up_log()
    if rest := [f for f in request.flags if f != "--config-dir" and f not in _values_of(request)]:
        raise UsageError(f"{' '.join(rest)}: gnnscale bench takes overrides, {VS} and "
                         "--config-dir; `gnnscale bench --help` lists them")  # fmt: skip
    trusted = binding.trust(request.overrides, os.environ.get("GNNSCALE_TRUST", ""))
    try:
        measurement, path = measure(request.overrides, others, catalog, trusted)
    except TrainingError as error:
        log.error("gnnscale bench: %s", error)
        return 1
    show(measurement, Console(width=None if sys.stdout.isatty() else 160, highlight=False))
    say(str(path))
    return 0


def _values_of(request: Request) -> list[str]:
    return _values(list(request.flags))


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _plain(value: str | None) -> str:
    """A typed value without the quotes that Hydra's grammar wants around unusual ones."""
    value = value or ""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _value(overrides: Sequence[str], key: str) -> str | None:
    found = [o.partition("=")[2] for o in overrides if o.lstrip("+").partition("=")[0] == key]
    return found[-1] if found else None


def resume_run(
    folder: Path, typed: Sequence[str], catalog: Catalog, trusted: frozenset[str]
) -> int:
    """Go on with a run folder: its own configuration, unfinished seeds only."""
    from gnnscale import jobs, session

    if folder.name.startswith("seed-") and (folder.parent / "config.json").exists():
        folder = folder.parent
    allowed = ("resume", "seeds", "trust")
    other = [o for o in typed if o.lstrip("+").partition("=")[0] not in allowed]
    if other:
        raise UsageError(
            f"resume={folder} {' '.join(other)}: a resumed run keeps its own configuration; only "
            "seeds= may be given with it. For another composition leave resume out"
        )
    plan = session.load_plan(folder, catalog, trusted)
    seeds = _value(typed, "seeds")
    if seeds is not None:
        if not seeds.isdecimal() or int(seeds) < 1:
            raise UsageError(f"seeds={seeds}: not a whole number >= 1; e.g. seeds=10")
        plan.config["seeds"] = int(seeds)
    code = jobs.run_folder(plan, folder, list(typed))
    if code == 0:
        say(str(folder))
    return code
