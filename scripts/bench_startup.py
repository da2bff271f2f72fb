"""Seconds from the command to the first training step on digits, and which packages they go to.

usage: scripts/bench_startup.py [ROUNDS]

Every round is a fresh process: torch and DGL are imported first, then the command of the README
runs up to its first step. Afterwards Python's own profile of imports, added up by package. Markdown
on standard output. A round before the first fills the caches of files, of Python's own code and of
compiled loops.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter

COMMAND = ("train", "+sampler=saint", "+model=egc", "trainer.epochs=1")

ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

CHILD = """
import sys, time
started = time.perf_counter()
from gnnscale.core import compiler
compiler.sleep()
import torch
from gnnscale.core.host import dgl
imported = time.perf_counter()
from gnnscale.cli import main
from gnnscale.train.loop import Run

def step(*_, **__):
    print("seconds", imported - started, time.perf_counter() - imported, flush=True)
    raise KeyboardInterrupt

Run.step = step
main(sys.argv[1:])
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python."""
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=ENVIRONMENT)


def seconds(folder: str) -> tuple[float, float]:
    """Of importing torch and DGL, and from there to the first step."""
    words = [*COMMAND, f"hydra.run.dir={folder}/run"]
    done = run("-c", CHILD, *words)
    found = re.search(r"^seconds (\S+) (\S+)$", done.stdout, re.M)
    if found is None:
        sys.exit(done.stderr)
    return float(found[1]), float(found[2])


def packages(folder: str) -> Counter[str]:
    """Milliseconds of importing, without what each import imports in turn, by package."""
    code = f"import sys; sys.argv[1:] = {[*COMMAND, f'hydra.run.dir={folder}/run']!r}\n"
    code += "from gnnscale.cli import main; main()"
    done = run("-X", "importtime", "-c", code)
    spent: Counter[str] = Counter()
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr, re.M):
        spent[name.split(".")[0]] += int(own) / 1000
    return spent


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    times = []
    for at in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            both = seconds(folder)
        if at:
            times.append(both)
    print(f"| of {rounds} | median s | least | most |\n| --- " + "| --: " * 3 + "|")
    for name, own in zip(
        ("torch and DGL imported", "from there to the first step"),
        zip(*times, strict=True),
        strict=True,
    ):
        print(f"| {name} | {statistics.median(own):.2f} | {min(own):.2f} | {max(own):.2f} |")
    with tempfile.TemporaryDirectory() as folder:
        spent = packages(folder)
    print("\n| imports of | ms |\n| --- | --: |")
    for name, ms in spent.most_common(15):
        print(f"| {name} | {ms:.0f} |")
    print(f"| all others | {spent.total() - sum(m for _, m in spent.most_common(15)):.0f} |")


if __name__ == "__main__":
    main()
