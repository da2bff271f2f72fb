import logging

import pytest
from compositions import quiet_metrics, toy, train

from gnnscale.core.errors import UsageError
from gnnscale.logger import tensorboard
from gnnscale.train import checkpoint


def scalars(folder, name):
    """(step, value) in the order that TensorBoard shows, purged steps left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(e.step, e.value) for e in events.Scalars(name)]


def test_events_are_the_metrics(tmp_path):
    (record,) = train(toy({"trainer": {"epochs": 4}}, logger=["tensorboard"]), tmp_path)
    seed = tmp_path / "seed-0"
    for name in ("loss", "valid"):
        found = scalars(seed, name)
        assert [s for s, _ in found] == [0, 1, 2, 3]
        assert [v for _, v in found] == pytest.approx([m[name] for m in quiet_metrics(seed)])
    assert scalars(seed, "final/test") == [
        (record.metric["best_epoch"], pytest.approx(record.metric["test"]))
    ]


def test_a_resumed_seed_repeats_no_step(tmp_path):
    """Killed after epoch 5, with a checkpoint of epoch 3: 3 and 4 are trained and told again."""
    train(toy({"trainer": {"epochs": 5}}, logger=["tensorboard"]), tmp_path)
    seed = tmp_path / "seed-0"
    (seed / "record.json").unlink()
    (tmp_path / "config.json").unlink()
    train(toy({"trainer": {"epochs": 3}}), tmp_path / "three")
    state = checkpoint.load(tmp_path / "three/seed-0/checkpoint.pt")
    checkpoint.save(seed / "checkpoint.pt", {**state, "finished": False})
    train(toy({"trainer": {"epochs": 6}}, logger=["tensorboard"]), tmp_path)
    found = scalars(seed, "loss")
    assert [s for s, _ in found] == [0, 1, 2, 3, 4, 5]
    assert [v for _, v in found] == pytest.approx([m["loss"] for m in quiet_metrics(seed)])


def test_without_the_package_it_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'gnnscale\[tensorboard\]'.*logger=csv"):
        tensorboard.TensorBoard()
