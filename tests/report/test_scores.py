import pytest
from made_runs import seed, three
from scipy import stats

from gnnscale.core.errors import UsageError
from gnnscale.report.compare import holm
from gnnscale.report.render import render
from gnnscale.report.rows import collect
from gnnscale.report.scores import Wish, sections, table

ALIASES = {"model": "architecture"}


def tables(folder, **wish):
    rows = collect([folder]).rows
    wish = Wish(aliases=ALIASES, **wish)
    return [table(part, rows, wish).narrowed() for part in sections(rows, wish)]


def line(made, label):
    """{header: cell} of one composition."""
    (found,) = [cells for cells in made.lines if cells[0].text == label]
    return dict(zip([c.header for c in made.columns], found, strict=True))


def texts(made, header):
    j = [c.header for c in made.columns].index(header)
    return [cells[j].text for cells in made.lines]


def test_mean_sample_std_n_seeds_and_what_is_missing(tmp_path):
    three(tmp_path / "a", [0.8, 0.9, 0.7])
    seed(tmp_path / "a", 3, state="failed")
    seed(tmp_path / "a", 4, state="running")
    (made,) = tables(tmp_path)
    cells = line(made, "digits full gcn")
    assert cells["test % ↑"].text == "80.00 ± 10.00"
    assert cells["test % ↑"].numbers == (pytest.approx(80), pytest.approx(10), 3)
    shown = {h: cells[h].text for h in ("n", "seeds", "failed", "killed", "parameters ↓")}
    assert shown == {
        "n": "3",
        "seeds": "0-2",
        "failed": "3",
        "killed": "4",
        "parameters ↓": "1,234",
    }
    assert "interrupted" not in cells
    assert made.title.startswith("digits: accuracy, mean ± sample standard deviation")


def test_the_best_is_bold_in_its_direction_and_those_that_read_the_same(tmp_path):
    for i, (score, latency) in enumerate(((0.80001, 2.0), (0.80002, 1.0), (0.7, 3.0))):
        seed(tmp_path / str(i), 0, score, latency=latency, architecture=f"m{i}")
    (made,) = tables(tmp_path)
    best = {name: [line(made, f"digits full m{i}")[name].best for i in range(3)]
            for name in ("test % ↑", "latency p50 ms ↓")}  # fmt: skip
    assert best == {"test % ↑": [True, True, False], "latency p50 ms ↓": [False, True, False]}


def test_a_row_alone_is_not_the_best_of_anything(tmp_path):
    seed(tmp_path / "a", 0)
    (made,) = tables(tmp_path)
    assert not any(cell.best for cells in made.lines for cell in cells)


def test_what_was_not_measured_is_a_dash_and_never_the_best(tmp_path):
    seed(tmp_path / "a", 0, latency=None)
    seed(tmp_path / "b", 0, architecture="mlp")
    seed(tmp_path / "c", 0, state="failed", architecture="sage")
    (made,) = tables(tmp_path)
    assert texts(made, "latency p50 ms ↓") == ["-", "2", "-"]
    assert line(made, "digits full sage")["n"].text == "0"
    assert line(made, "digits full sage")["failed"].text == "0"


def test_only_means_that_differ_significantly_go_without_a_mark(tmp_path):
    best = [0.90, 0.91, 0.92, 0.90, 0.93]
    near = [0.89, 0.93, 0.90, 0.91, 0.92]
    far = [b - 0.1 - 0.001 * k for k, b in enumerate(best)]
    for name, scores in (("best", best), ("near", near), ("far", far)):
        three(tmp_path / name, scores, architecture=name)
    seed(tmp_path / "few", 0, 0.5, architecture="few")
    (made,) = tables(tmp_path)
    marks = {
        n: line(made, f"digits full {n}")["test % ↑"].near for n in ("best", "near", "far", "few")
    }
    assert marks == {"best": False, "near": True, "far": False, "few": False}
    assert "Holm over 2 comparisons" in " ".join(made.notes)
    assert "1 rows could not be tested" in " ".join(made.notes)


def test_the_baseline_gives_paired_differences_and_holms_p(tmp_path):
    base, one, two = [0.80, 0.82, 0.81], [0.85, 0.88, 0.85], [0.80, 0.83, 0.80]
    for name, scores in (("gcn", base), ("gat", one), ("mlp", two)):
        three(tmp_path / name, scores, architecture=name)
    seed(tmp_path / "few", 0, 0.9, architecture="few")
    (made,) = tables(tmp_path, baseline="model=gcn", tests=("t", "wilcoxon"))
    for test, header in ((stats.ttest_rel, "p (t)"), (None, "p (Wilcoxon)")):
        raw = [
            (
                test(x, base)
                if test
                else stats.wilcoxon([a - b for a, b in zip(x, base, strict=True)])
            ).pvalue
            for x in (one, two)
        ]
        shown = [line(made, f"digits full {n}")[header].mean for n in ("gat", "mlp")]
        assert shown == pytest.approx(holm(raw))
    assert line(made, "digits full gat")["Δ test %"].text.startswith("+5.00 [")
    assert line(made, "digits full gat")["pairs"].text == "3"
    assert line(made, "digits full gcn")["Δ test %"].text == "baseline"
    assert {line(made, "digits full few")[h].text for h in ("Δ test %", "pairs", "p (t)")} == {"-"}
    notes = " ".join(made.notes)
    assert "Holm-adjusted over 2 comparisons" in notes
    assert "can't give less than 0.25" in notes


def test_a_baseline_by_label_and_what_no_baseline_says(tmp_path):
    three(tmp_path / "a", [0.5, 0.6, 0.5])
    three(tmp_path / "b", [0.7, 0.6, 0.8], architecture="mlp")
    (made,) = tables(tmp_path, baseline="digits full mlp")
    assert line(made, "digits full mlp")["Δ test %"].text == "baseline"
    with pytest.raises(UsageError, match=r"row 'digits full mpl'.*did you mean 'digits full mlp'"):
        tables(tmp_path, baseline="digits full mpl")
    with pytest.raises(UsageError, match=r"--baseline sampler=full: fits 2 rows.*architecture"):
        tables(tmp_path, baseline="sampler=full")
    with pytest.raises(UsageError, match=r"--baseline architecture=gat: no composition is left"):
        tables(tmp_path, baseline="architecture=gat")


def test_by_makes_a_table_of_each_value_with_its_own_best_and_baseline(tmp_path):
    for i, (sampler, arch, score) in enumerate(
        (("full", "gcn", 0.9), ("full", "mlp", 0.8), ("saint", "gcn", 0.6), ("saint", "mlp", 0.7))
    ):
        three(tmp_path / str(i), [score, score + 0.01, score], sampler=sampler, architecture=arch)
    full, saint = tables(tmp_path, by=["sampler"], baseline="model=gcn")
    assert full.title.startswith("digits, sampler=full: ")
    assert line(full, "digits full gcn")["test % ↑"].best
    assert line(saint, "digits saint mlp")["test % ↑"].best
    assert line(saint, "digits saint gcn")["Δ test %"].text == "baseline"
    assert len(tables(tmp_path, by=["sampler", "model"])) == 4
    with pytest.raises(UsageError, match=r"key 'smapler' does not exist .did you mean 'sampler'"):
        tables(tmp_path, by=["smapler"])


def test_other_data_other_splits_and_other_scores_are_other_tables(tmp_path):
    split = [{"dataset": {"split_seed": s}} for s in (None, 3)]
    seed(tmp_path / "a", 0, config=split[0])
    seed(tmp_path / "b", 0, config=split[1])
    seed(
        tmp_path / "c", 0, config=split[0], architecture="mlp", data={"name": "digits", "edges": 8}
    )
    seed(tmp_path / "d", 0, config=split[0], dataset="cora")
    seed(tmp_path / "e", 0, config=split[0], architecture="sage")
    seed(tmp_path / "f", 0, config=split[1], architecture="sage", state="failed")
    made = tables(tmp_path)
    rows = {t.title.partition(": ")[0]: [c[0].text for c in t.lines] for t in made}
    assert [len(lines) for lines in rows.values()] == [2, 2, 1, 1]
    assert any("data.edges=8" in title for title in rows)
    assert any("dataset.split_seed=3" in title for title in rows)
    assert any(title == "cora" for title in rows)


def test_columns_and_order_as_asked(tmp_path):
    for i, (lr, score) in enumerate(((0.1, 0.5), (0.02, 0.7), (10.0, 0.6))):
        seed(tmp_path / str(i), 0, score, {"optimizer": {"lr": lr}}, extra={"f1": score / 2})
    (made,) = tables(
        tmp_path, show=["optimizer.lr", "test", "extra.f1", "time_s.phases.fit"], sort="test"
    )
    assert [c.header for c in made.columns] == [
        "composition", "optimizer.lr", "test % ↑", "extra.f1", "time_s.phases.fit ↓", "n", "seeds",
    ]  # fmt: skip
    assert texts(made, "test % ↑") == ["70.00", "60.00", "50.00"]
    assert texts(made, "extra.f1") == ["0.35", "0.3", "0.25"]
    assert texts(tables(tmp_path, sort="-test")[0], "test % ↑") == ["50.00", "60.00", "70.00"]
    by_key = tables(tmp_path, show=["optimizer.lr"], sort="optimizer.lr")[0]
    assert texts(by_key, "optimizer.lr") == ["0.02", "0.1", "10.0"]
    for wish in ({"show": ["tset"]}, {"sort": "tset"}):
        with pytest.raises(UsageError, match=r"column 'tset' does not exist .did you mean 'test'"):
            tables(tmp_path, **wish)


def test_every_format_renders_several_tables(tmp_path):
    seed(tmp_path / "a", 0)
    seed(tmp_path / "b", 0, dataset="cora")
    made = tables(tmp_path)
    assert render(made, "markdown").count("| composition |") == 2
    assert render(made, "latex").count(r"\begin{tabular}") == 2
    assert render(made, "table").count("composition") == 2
    assert render(made, "csv").count("composition") == 1


def test_an_error_is_told_in_its_own_unit_and_less_of_it_is_better(tmp_path):
    for name, errors in (("a", [0.31, 0.33, 0.32, 0.32]), ("b", [0.41, 0.43, 0.43, 0.41])):
        for k, error in enumerate(errors):
            seed(tmp_path / name, k, error, metric="mae", architecture=name)
    (made,) = tables(tmp_path, sort="test", baseline="architecture=b")
    assert texts(made, "test mae ↓") == ["0.3200 ± 0.0082", "0.4200 ± 0.0115"]
    assert line(made, "digits full a")["test mae ↓"].best
    assert made.title.startswith("digits: mae")
    assert line(made, "digits full a")["Δ test mae"].text.startswith("-0.1000 [")
