import io
from itertools import combinations

import numpy as np
import pytest
from made_runs import seed, three
from PIL import Image

from gnnscale.report import curves, labels, style
from gnnscale.report.canvas import figure, floor, short
from gnnscale.report.figures import drawings
from gnnscale.report.measures import offered
from gnnscale.report.page import saved
from gnnscale.report.rows import collect
from gnnscale.report.scores import Wish, sections


def drawn(folder):
    rows = collect([folder]).rows
    (part,) = sections(rows, Wish())
    return {d.name: d for d in drawings(part, offered(rows))}


@pytest.fixture
def runs(tmp_path):
    epochs = [{"valid": 0.1 * i, "train_s": 0.5} for i in range(8)]
    for i, (arch, score) in enumerate((("gcn", 0.8), ("mlp", 0.7), ("egc", 0.9), ("sage", 0.6))):
        three(tmp_path / arch, [score, score + 0.02, score - 0.01], architecture=arch,
              latency=1.0 + i, model_bytes=1000 * (i + 1), epochs=epochs)  # fmt: skip
    three(tmp_path / "qat", [0.95, 0.94, 0.96], quantization="qat", latency=None, model_bytes=500,
          notes=["latency_ms: not measured, fake quantization runs float kernels"])  # fmt: skip
    return tmp_path


def test_every_figure_that_has_its_measurements(runs):
    assert set(drawn(runs)) == {"curves", "bars", "pareto-latency_p50", "pareto-bytes"}


def test_fake_quantized_runs_are_not_in_latency_plots_and_the_caption_says_so(runs):
    found = drawn(runs)
    caption = found["pareto-latency_p50"].caption
    assert "Not shown, not measured: gcn qat (fake quantization runs float kernels" in caption
    assert "qat" not in written(found["pareto-latency_p50"])
    assert "gcn qat" in written(found["pareto-bytes"])
    assert "Not shown" not in found["pareto-bytes"].caption


def test_figures_of_an_error_have_its_unit_and_less_is_better(tmp_path):
    for i, (arch, error) in enumerate((("gcn", 0.5), ("mlp", 0.6), ("egc", 0.3))):
        three(tmp_path / arch, [error, error + 0.02, error - 0.02], architecture=arch,
              latency=1.0 + i, metric="mae", epochs=[{"valid": 0.5, "train_s": 0.5}])  # fmt: skip
    found = drawn(tmp_path)
    front = found["pareto-latency_p50"].figure.axes[0]
    assert front.get_ylabel() == "test mae"
    assert front.yaxis_inverted()
    steps = front.lines[-1].get_ydata()
    assert (np.diff(steps) <= 0).all(), "the front falls: mlp costs more than gcn and errs more"
    assert steps[-1] == pytest.approx(0.3)
    assert [axes.get_xlabel() for axes in found["bars"].figure.axes[:2]] == ["test mae"] * 2
    assert found["curves"].figure.axes[0].get_ylabel() == "validation mae"


def written(drawing):
    return [text.get_text() for text in drawing.figure.axes[0].texts]


def test_the_front_is_a_step_line_and_what_it_dominates_is_grey(runs):
    axes = drawn(runs)["pareto-latency_p50"].figure.axes[0]
    steps = next(
        line for line in axes.lines if len(line.get_xdata()) > 4 and line.get_linestyle() == "-"
    )
    points = [(1.0, 80 + 1 / 3), (3.0, 90 + 1 / 3)]
    xs, ys = np.array(steps.get_xdata()), np.array(steps.get_ydata())
    assert all(((np.isclose(xs, x)) & np.isclose(ys, y)).any() for x, y in points)
    assert ((np.diff(xs) == 0) | (np.diff(ys) == 0)).all()  # no diagonals
    assert (np.diff(xs) >= 0).all()
    assert (np.diff(ys) >= 0).all()
    grey = [
        line for line in axes.lines if line.get_color() == style.FAINT and line.get_marker() == "X"
    ]
    assert sorted(np.concatenate([line.get_xdata() for line in grey])) == [2.0, 4.0]


def test_names_lie_on_no_other_name_and_on_no_point():
    rng = np.random.default_rng(0)
    sheet = figure(6, 4)
    axes = sheet.subplots()
    points = [tuple(p) for p in rng.random((12, 2))]
    axes.set(xlim=(-0.2, 1.2), ylim=(-0.2, 1.2))
    sheet.draw_without_rendering()
    left_out = labels.place(
        axes, points, [f"name {i}" for i in range(12)], avoid=points, fontsize=7
    )
    draw = sheet.canvas.get_renderer()
    boxes = [labels._box(text, draw) for text in axes.texts]
    assert len(boxes) + len(left_out) == 12
    assert len(boxes) >= 10
    assert not any(labels._overlap(a, b) for a, b in combinations(boxes, 2))
    at = [tuple(axes.transData.transform(p)) for p in points]
    assert not any(b[0] < x < b[2] and b[1] < y < b[3] for b in boxes for x, y in at)


def test_eight_lines_differ_without_colour():
    looks = [style.line(i) for i in range(8)]
    plain = {(str(k["linestyle"]), k["marker"], k["markerfacecolor"] == "white") for k in looks}
    assert len(plain) == len({k["color"] for k in looks}) == 8


def test_files_are_pictures_and_the_same_each_time(runs):
    once, twice = (drawn(runs)["pareto-bytes"].figure for _ in range(2))
    svg = saved(once, "svg")
    assert b"<svg" in svg
    assert svg == saved(twice, "svg")
    image = Image.open(io.BytesIO(saved(once, "png")))
    assert image.size > (1000, 600)


def test_many_rows_have_numbers_and_their_names_in_the_caption(tmp_path):
    for i in range(70):
        seed(tmp_path / str(i), 0, 0.5 + 0.001 * i, {"optimizer": {"lr": i}}, latency=1.0 + i)
    found = drawn(tmp_path)
    texts = written(found["pareto-latency_p50"])
    assert {t for t in texts if not t.isdigit()} == set()
    assert "1: lr=0; 2: lr=1; 3: lr=2" in found["pareto-latency_p50"].caption
    assert "The 30 of 70 rows that are best on validation" in found["bars"].caption


def test_a_far_off_score_does_not_flatten_the_figure_and_is_told(tmp_path):
    for i, score in enumerate((0.90, 0.91, 0.92, 0.93, 0.1)):
        seed(tmp_path / str(i), 0, score, architecture=f"m{i}", latency=5.0 - i)
    found = drawn(tmp_path)["pareto-latency_p50"]
    assert found.figure.axes[0].get_ylim()[0] > 50
    assert "m4 (10.0)" in written(found)
    assert "their score is in brackets" in found.caption


def test_floor():
    assert floor([90.0, 91.0, 92.0]) is None
    assert floor([90.0, 91.0, 92.0, 93.0]) is None
    # quartiles of 10, 90, 91, 92, 93: 90 and 92
    assert floor([10.0, 90.0, 91.0, 92.0, 93.0]) == 90.0 - 3 * 2.0


def test_curve_by_hand():
    seeds = [
        {0: {"valid": 0.1, "train_s": 1.0}, 1: {"valid": 0.3, "train_s": 2.0}, 2: {"valid": 0.9}},
        {0: {"valid": 0.3, "train_s": 3.0}, 1: {"valid": 0.5, "train_s": 2.0}},
    ]
    found = curves.curve(seeds, "valid")
    assert found.epochs == [0, 1]  # only one seed reached epoch 2
    assert found.mean == pytest.approx([0.2, 0.4])
    assert found.std == pytest.approx([0.02**0.5, 0.02**0.5])
    assert found.seconds == pytest.approx([2.0, 4.0])
    assert curves.curve(seeds, "loss") is None
    assert curves.curve([], "valid") is None


def test_a_line_that_a_kill_cut_short_is_passed_over_and_the_last_of_an_epoch_wins(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"epoch": 0, "valid": 1}\n{"epoch": 1, "valid": 2}\n{"epoch": 1, "valid": 3}\n{"epo'
    )
    assert {e: m["valid"] for e, m in curves.read(path).items()} == {0: 1, 1: 3}
    assert curves.read(tmp_path / "none") == {}


def test_short_names(tmp_path):
    seed(tmp_path / "a", 0, config={"architecture": {"hidden": 8}})
    seed(tmp_path / "b", 0, config={"architecture": {"hidden": 16}})
    seed(tmp_path / "c", 0, architecture="mlp")
    rows = collect([tmp_path]).rows
    assert list(short(rows).values()) == ["gcn hidden=8", "gcn hidden=16", "mlp"]
    assert list(short(rows[2:]).values()) == ["digits full mlp"]
