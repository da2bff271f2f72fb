"""The help pages."""

from gnnscale import __version__
from gnnscale.catalog import Catalog

MANY = 150
"""A group with more options is told by a few of them."""
HELP = """\
gnnscale {version}: train, compress, measure and compare efficient graph neural networks

  gnnscale train  [group=option ...] [key=value ...]   train, evaluate, write a run folder
  gnnscale check  [group=option ...] [key=value ...]   validate a composition without loading data
  gnnscale list   [group]                              groups, options, presets, papers
  gnnscale predict run=FOLDER [seed=K] [out=FILE.csv]  class probabilities of every node, of a part
      [only=test | only=IDS.txt]                       of the split, or of the ids in a file
  gnnscale convert run=FOLDER [out=FOLDER]             integer model of a quantized run
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
               [peer=dgl|pyg] [--vs group=option ... | --vs run=OTHER] ...

Measures latency (percentiles with intervals), peak memory per phase, parameters, bytes and
multiply-accumulates, and how far each kind of layer is from what this machine can do.

  run=FOLDER            the selected weights of a finished run (seed=K, a seed's folder or its
                        checkpoint.pt pick the seed); without it, a composition's fresh weights
  --vs WORDS ...        a second composition: these words on top of the first ones, or run=OTHER.
                        Requests are made in turn, A B B A; ratios are taken pair by pair. Typed
                        again it adds a third side, and so on; every ratio is to the first
  peer=dgl | pyg        the same model from that library's layers and loaders, in turn with ours
  bench=quick           at least 30 requests and 1 s each, no memory phases (default: 200 and 5 s)
  bench.workloads=[full,query,step,epoch]   [] only counts      bench.scopes=[model,end2end]
  bench.queries=[1,32,1024]                 bench.trace=FOLDER  chrome traces
  `gnnscale list bench` shows every key

Examples:
  gnnscale bench dataset=cora architecture=gat bench=quick
  gnnscale bench run=runs/train/digits-full-gcn/20261123T204943040944-f4da
  gnnscale bench architecture=gcn --vs architecture=sage --vs hardware.precision=bfloat16
  gnnscale bench dataset=synthetic architecture=gcn peer=dgl bench.workloads=[epoch]

Writes bench.json below runs/bench, or seed-K/bench/<time>.json beside the weights; the last line
is its path. How to read the figures: docs/measuring.md.
"""


def text(catalog: Catalog) -> str:
    """The help page, with the groups as they are."""
    lines = []
    for group in catalog.groups:
        default = catalog.defaults.get(group)
        shown = "+".join(default) if isinstance(default, list) else default
        names = list(catalog.options(group))
        told = " ".join(names)
        if len(names) > MANY:
            some = " ".join(names[:: len(names) // 4][:4])
            told = f"{some} and {len(names) - 4} more: gnnscale list {group}"
        lines.append(f"  {group:<13}[{shown or 'off'}] {told}")
    return HELP.format(version=__version__, groups="\n".join(lines))
