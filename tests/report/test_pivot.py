import statistics

import pytest
from made_runs import seed, three

from gnnscale.core.errors import UsageError
from gnnscale.report.measures import FIXED
from gnnscale.report.pivot import pivot
from gnnscale.report.render import render
from gnnscale.report.rows import collect
from gnnscale.report.scores import Wish


def laid(folder, down="dataset", across="architecture", measure="test"):
    made = pivot(collect([folder]).rows, down, across, FIXED[measure], Wish())
    return made.narrowed()


def texts(made):
    return [[cell.text for cell in line] for line in made.lines]


def grid(folder):
    """Two datasets by two architectures, three seeds each; one cell is left out."""
    for i, (data, arch) in enumerate((("a", "gcn"), ("a", "mlp"), ("b", "mlp"))):
        three(folder / str(i), [0.5 + 0.1 * i + 0.01 * k for k in range(3)], dataset=data,
              architecture=arch, latency=3.0 - i)  # fmt: skip
    return folder


def test_lines_and_columns_hold_mean_std_n_seeds_and_the_best_is_bold(tmp_path):
    made = laid(grid(tmp_path))
    assert [c.header for c in made.columns] == ["dataset", "gcn", "mlp", "metric", "n", "seeds"]
    std = statistics.stdev([50, 51, 52])
    assert texts(made)[0] == [
        "a", f"51.00 ± {std:.2f}", f"61.00 ± {std:.2f}", "accuracy", "3", "0-2",
    ]  # fmt: skip
    assert texts(made)[1][1] == "-"
    assert [[c.best for c in line] for line in made.lines] == [
        [False, False, True, False, False, False], [False] * 6,
    ]  # fmt: skip
    assert "| **61.00 ± 1.00** |" in render([made], "markdown")
    assert "61.00 ± 1.00 *" in render([made], "table")
    assert "51.00 ± 1.00 *" not in render([made], "table")
    assert r"\textbf{61.00 $\pm$ 1.00}" in render([made], "latex")


def test_another_measure_is_best_in_its_own_direction(tmp_path):
    made = laid(grid(tmp_path), measure="latency_p50")
    assert [c.text for c in made.lines[0][1:3]] == ["3", "2"]
    assert made.lines[0][2].best


def test_cells_of_unequal_n_say_so_and_missing_seeds_are_listed(tmp_path):
    grid(tmp_path)
    (tmp_path / "1/seed-2/record.json").unlink()
    (tmp_path / "1/seed-2/status.json").write_text('{"state": "interrupted"}')
    seed(tmp_path / "1", 3, state="failed", dataset="a", architecture="mlp")
    first = texts(laid(tmp_path))[0]
    assert first[1].endswith("(n = 3, seeds 0-2)")
    assert first[2].endswith("(n = 2, seeds 0,1)")
    assert first[4:] == ["-", "-", "mlp: 3 failed; mlp: 2 interrupted"]


def test_two_compositions_in_one_cell_are_refused_by_what_differs(tmp_path):
    for name, lr in (("x", 0.1), ("y", 0.2)):
        seed(tmp_path / name, 0, config={"optimizer": {"lr": lr}})
    with pytest.raises(UsageError, match=r"2 compositions fall into this cell.*optimizer\.lr"):
        laid(tmp_path)
    assert texts(laid(tmp_path, across="optimizer.lr"))[0][1:3] == ["50.00", "50.00"]
    with pytest.raises(UsageError, match=r"optimiser\.lr"):
        laid(tmp_path, across="optimiser.lr")


def test_datasets_may_be_columns_and_then_columns_are_compared(tmp_path):
    made = laid(grid(tmp_path), "architecture", "dataset")
    best = {(line[0].text, c.header): cell.best
            for line in made.lines for c, cell in zip(made.columns, line, strict=True)}  # fmt: skip
    assert best["mlp", "a"]
    assert not best["gcn", "a"]
    assert not best["mlp", "b"]  # alone
    assert "best mean of a column" in made.notes[0]


def test_different_data_in_lines_and_columns_is_refused(tmp_path):
    for i, (samp, arch, edges) in enumerate((("s", "gcn", 5), ("s", "mlp", 6), ("t", "gcn", 6))):
        seed(tmp_path / str(i), 0, sampler=samp, architecture=arch,
             data={"name": "digits", "edges": edges})  # fmt: skip
    with pytest.raises(UsageError, match=r"sampler=s: .*did not see the same data.*data\.edges"):
        laid(tmp_path, "sampler", "architecture")
