import statistics

import pytest
from test_table import CHOICES, seed

from gnnscale import cli
from gnnscale.core.errors import UsageError
from gnnscale.report.pivot import pivot
from gnnscale.report.render import render
from gnnscale.report.table import collect


def grid(folder):
    """Two datasets by two architectures, three seeds each; one cell is left out."""
    for i, (data, arch) in enumerate((("a", "gcn"), ("a", "mlp"), ("b", "mlp"))):
        for k in range(3):
            seed(folder / str(i), k, 0.5 + 0.1 * i + 0.01 * k, {"distillation": {}},
                 {**CHOICES, "dataset": data, "architecture": arch})  # fmt: skip
    return folder


def test_lines_and_columns_hold_mean_std_n_seeds_and_the_best_is_bold(tmp_path):
    headers, cells, bold = pivot(collect([grid(tmp_path)]), "dataset", "architecture")
    assert headers == ["dataset", "gcn", "mlp", "metric ↑", "n", "seeds", "unfinished"]
    std = statistics.stdev([50, 51, 52])
    assert cells[0][:3] == ["a", f"51.00 ± {std:.2f}", f"61.00 ± {std:.2f}"]
    assert cells[0][3:] == ["accuracy", "3", "0-2", "-"]
    assert cells[1][1] == "-"
    assert bold == {(0, 2), (1, 2)}
    assert "| **61.00 ± 1.00** |" in render(headers, cells, "markdown", bold)
    assert "61.00 ± 1.00 *" in render(headers, cells, "table", bold)
    assert "51.00 ± 1.00 *" not in render(headers, cells, "table", bold)
    assert r"\textbf{61.00 $\pm$ 1.00}" in render(headers, cells, "latex", bold)


def test_cells_of_unequal_n_say_so_and_unfinished_seeds_are_listed(tmp_path):
    grid(tmp_path)
    (tmp_path / "1/seed-2/record.json").unlink()
    _, cells, _ = pivot(collect([tmp_path]), "dataset", "architecture")
    assert cells[0][1].endswith("(n = 3, seeds 0-2)")
    assert cells[0][2].endswith("(n = 2, seeds 0,1)")
    assert cells[0][4:] == ["-", "-", "mlp: 2"]


def test_two_compositions_in_one_cell_are_refused_by_what_differs(tmp_path):
    for name, lr in (("x", 0.1), ("y", 0.2)):
        seed(tmp_path / name, 0, 0.5, {"optimizer": {"lr": lr}, "distillation": {}}, CHOICES)
    rows = collect([tmp_path])
    with pytest.raises(UsageError, match=r"2 compositions fall into this cell.*optimizer\.lr"):
        pivot(rows, "dataset", "architecture")
    _, cells, _ = pivot(rows, "dataset", "optimizer.lr")
    assert cells[0][1:3] == ["50.00", "50.00"]
    with pytest.raises(UsageError, match=r"optimiser\.lr"):
        pivot(rows, "dataset", "optimiser.lr")


def test_different_data_on_one_line_is_refused(tmp_path):
    rows = collect([grid(tmp_path)])
    rows[0].records[0].data = {"name": "a", "edges": 5}
    with pytest.raises(UsageError, match=r"did not see the same data.*edges"):
        pivot(rows, "dataset", "architecture")


def test_the_verb_writes_a_file_and_wants_both_keys(tmp_path, capsys):
    grid(tmp_path / "runs")
    out = tmp_path / "table.md"
    words = ["report", str(tmp_path / "runs"), "--rows", "dataset", "--format", "markdown"]
    with pytest.raises(UsageError, match="go together"):
        cli.dispatch(words)
    assert cli.dispatch([*words, "--columns", "architecture", "--out", str(out)]) == 0
    assert out.read_text().startswith("| dataset | gcn | mlp |")
    assert capsys.readouterr().out.strip() == str(out)
