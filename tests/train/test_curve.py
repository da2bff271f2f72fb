import json

from gnnscale.train import curve


def epochs(folder):
    return [json.loads(s)["epoch"] for s in (folder / curve.NAME).read_text().splitlines()]


def test_lines_of_later_epochs_are_dropped(tmp_path):
    curve.drop(tmp_path, 0)  # nothing is there yet
    for epoch in range(4):
        curve.append(tmp_path, {"epoch": epoch, "loss": 0.5})
    assert epochs(tmp_path) == [0, 1, 2, 3]
    curve.drop(tmp_path, 2)
    assert epochs(tmp_path) == [0, 1]
    curve.drop(tmp_path, 5)
    assert epochs(tmp_path) == [0, 1]


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    curve.append(tmp_path, {"epoch": 0})
    with (tmp_path / curve.NAME).open("a") as file:
        file.write('{"loss": 1}\nno line\n{"epoch": 1}')
    curve.drop(tmp_path, 9)
    assert (tmp_path / curve.NAME).read_text() == '{"epoch": 0}\n'
