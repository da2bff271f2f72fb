"""What each distillation loss gained, from the runs of scripts/bench_distillation.sh.

usage: scripts/distillation_table.py OUT [SET ...]
       scripts/distillation_table.py --chosen OUT SET STUDENT LOSS     (the weight that is read)

Of a loss that was run with several weights the one is read whose mean validation score is best on
the seeds that all of them have.
Differences are of a student with the loss and the same student without, seed by seed; p-values of
the paired t-test are Holm-adjusted over the losses of one student on one set.
"""

import json
import sys
from pathlib import Path

from gnnscale.report.compare import LEVEL, holm, mean_std, paired


def scores(folder: Path, split: str) -> dict[int, float]:
    """Percent by seed of the finished seeds of a run."""
    found = {}
    for place in sorted(folder.glob("seed-*/record.json")):
        if json.loads(place.with_name("status.json").read_text())["state"] == "finished":
            seed = int(place.parent.name.removeprefix("seed-"))
            found[seed] = 100 * json.loads(place.read_text())["metric"][split]
    return found


def spread(values: dict[int, float]) -> str:
    """Mean, and sample standard deviation where there is one."""
    mean, std = mean_std(list(values.values()))
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def chosen(runs: list[Path]) -> tuple[Path, str]:
    """The run whose mean validation score is highest on the seeds that all have, and its weight."""
    valid = {run: scores(run, "valid") for run in runs}
    common = set.intersection(*(set(found) for found in valid.values()))
    best = max(runs, key=lambda run: mean_std([valid[run][s] for s in common])[0])
    return best, best.name.split("-", 2)[2] if best.name.count("-") > 1 else "-"


def table(place: Path) -> list[str]:
    """One set: a line for the teacher, and for every student alone and with each loss."""
    runs = [run for run in sorted(place.iterdir()) if scores(run, "test")]
    lines = ["| student | loss | weight | valid | test | n | difference | p |",
             "| :-- | :-- | --: | --: | --: | --: | --: | --: |"]  # fmt: skip
    for student in ("gat", "gcn", "mlp", "egc", "sign"):
        alone = place / student
        if alone not in runs:
            continue
        plain = scores(alone, "test")
        name = "GAT, the teacher" if student == "gat" else f"{student.upper()} alone"
        valid = spread(scores(alone, "valid"))
        lines.append(f"| {name} | | | {valid} | {spread(plain)} | {len(plain)} | | |")
        losses: dict[str, list[Path]] = {}
        for run in runs:
            if run.name.startswith(f"{student}-"):
                losses.setdefault(run.name.split("-")[1], []).append(run)
        best = {loss: chosen(found) for loss, found in losses.items()}
        against = {loss: paired(scores(run, "test"), plain) for loss, (run, _) in best.items()}
        adjusted = holm([c.p["t"] if c else None for c in against.values()])
        for (loss, (run, weight)), p in zip(best.items(), adjusted, strict=True):
            test = scores(run, "test")
            gained = spread({s: test[s] - plain[s] for s in test.keys() & plain.keys()})
            exact = "-" if p is None else "< 0.001" if p < 0.0005 else f"{p:.3f}"
            told = f"{exact} *" if p is not None and p < LEVEL else exact
            lines.append(
                f"| {student.upper()} | {loss.replace('_', ' + ' if 'gcrd' in loss else ' ')} | "
                f"{weight} | {spread(scores(run, 'valid'))} | {spread(test)} | {len(test)} | "
                f"{gained} | {told} |"
            )
    return lines


def main() -> None:
    """Print the tables of the sets that were named, or of all; or one loss's weight."""
    if sys.argv[1] == "--chosen":
        out, name, student, loss = sys.argv[2:]
        print(chosen(sorted((Path(out) / name).glob(f"{student}-{loss}-*")))[1])
        return
    out = Path(sys.argv[1])
    for name in sys.argv[2:] or sorted(p.name for p in out.iterdir() if p.is_dir()):
        print(f"\n## {name}\n", *table(out / name), sep="\n")


if __name__ == "__main__":
    main()
