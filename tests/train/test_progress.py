import logging
import os
import signal
import threading
from types import SimpleNamespace

import pytest

from gnnscale.train.progress import Patience, Progress


def heard(patience, scores):
    return [patience.hear(score, epoch) for epoch, score in enumerate(scores)]


def test_patience_by_hand():
    patience = Patience(2, 0.0)
    said = heard(patience, [0.5, 0.5, 0.6, 0.55, 0.6])
    # equal is not better, and it counts
    assert [better for better, _ in said] == [True, False, True, False, False]
    assert [stop for _, stop in said] == [False, False, False, False, True]
    assert (patience.best, patience.best_epoch, patience.stale) == (0.6, 2, 2)


def test_a_gain_must_exceed_min_delta():
    patience = Patience(3, 0.25)
    said = heard(patience, [0.0, 0.25, 0.26, 0.5, 0.52])
    assert [better for better, _ in said] == [True, False, True, False, True]
    # the gain is counted from the best that was kept, not from the last score
    slow = Patience(3, 0.25)
    assert [b for b, _ in heard(slow, [0.0, 0.125, 0.25, 0.375])] == [True, False, False, True]


def test_the_first_score_is_the_best_so_far_whatever_it_is():
    patience = Patience(1, 10.0)
    assert patience.hear(-5.0, 4) == (True, False)
    assert (patience.best, patience.best_epoch) == (-5.0, 4)


def test_no_limit_never_stops():
    patience = Patience(None, 0.0)
    said = heard(patience, [1.0] + [0.0] * 500)
    assert not any(stop for _, stop in said)
    assert patience.stale == 500


def test_a_score_that_is_no_number_is_never_the_best():
    patience = Patience(2, 0.0)
    assert heard(patience, [float("nan"), 0.1, float("nan"), float("nan")]) == [
        (False, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    assert (patience.best, patience.best_epoch) == (0.1, 1)


@pytest.mark.parametrize("cut", range(9))
def test_state_goes_on_exactly(cut):
    scores = [0.1, 0.3, 0.2, 0.31, 0.2, 0.2, 0.4, 0.1]
    through, first, second = (Patience(2, 0.05) for _ in range(3))
    want = heard(through, scores)
    got = [first.hear(s, e) for e, s in enumerate(scores[:cut])]
    second.load(first.state())
    got += [second.hear(s, e + cut) for e, s in enumerate(scores[cut:])]
    assert got == want
    assert second.state() == through.state()


def told(patience, pairs):
    return [patience.hear(score, epoch, loss) for epoch, (score, loss) in enumerate(pairs)]


def test_a_lower_loss_is_a_gain_where_loss_is_monitored():
    patience = Patience(2, 0.0, "loss")
    said = told(patience, [(0.5, 1.0), (0.9, 1.0), (0.4, 0.9), (0.9, 0.95), (0.9, float("nan"))])
    assert [better for better, _ in said] == [True, False, True, False, False]
    assert [stop for _, stop in said] == [False, False, False, False, True]
    assert (patience.best, patience.best_epoch) == (0.4, 2)


def test_tied_waits_on_a_score_as_high_and_keeps_the_last_of_the_highest():
    patience = Patience(2, 0.0, "tied")
    pairs = [(0.5, 1.0), (0.5, 9.0), (0.4, 1.0), (0.5, 1.0), (0.4, 0.1), (float("nan"), 0.1)]
    said = told(patience, pairs)
    assert [better for better, _ in said] == [True, True, False, True, False, False]
    assert [stop for _, stop in said] == [*[False] * 5, True]
    assert (patience.best, patience.best_epoch) == (0.5, 3)


def test_both_keeps_weights_where_score_and_loss_are_best_together_and_waits_on_either():
    patience = Patience(2, 0.0, "both")
    said = told(patience, [
        (0.5, 1.0),  # the first
        (0.6, 1.1),  # a higher score alone: no weights, patience anew
        (0.5, 0.9),  # a lower loss alone
        (0.6, 0.9),  # ties of both bests, which were not at one epoch: kept
        (0.5, 1.0),
        (0.6, 1.0),  # a tie is a gain
        (0.5, 1.0),
        (0.5, 1.0),
    ])  # fmt: skip
    assert [better for better, _ in said] == [True, False, False, True, *[False] * 4]
    assert [stop for _, stop in said] == [*[False] * 7, True]
    assert (patience.best, patience.best_epoch) == (0.6, 3)


def test_ranked_keeps_the_highest_score_and_the_lower_loss_of_a_tie_and_waits_on_either():
    patience = Patience(2, 0.0, "ranked")
    said = told(patience, [
        (0.5, 1.0),
        (0.6, 1.1),  # a higher score, whatever the loss
        (0.5, 0.9),  # a lower loss alone: no weights, patience anew
        (0.6, 1.2),  # a tie of the score with a higher loss
        (0.6, 1.0),  # the same with a lower one than that of the weights kept
        (0.5, 1.0),
        (0.5, 1.0),
    ])  # fmt: skip
    assert [better for better, _ in said] == [True, True, False, False, True, False, False]
    assert [stop for _, stop in said] == [*[False] * 6, True]
    assert (patience.best, patience.best_epoch) == (0.6, 4)


@pytest.mark.parametrize("monitor", ["score", "tied", "loss", "both", "ranked"])
@pytest.mark.parametrize("cut", range(7))
def test_state_goes_on_exactly_whatever_is_monitored(monitor, cut):
    pairs = [(0.1, 3.0), (0.3, 3.5), (0.2, 2.0), (0.3, 2.0), (0.2, 1.9), (0.4, 2.5), (0.1, 1.0)]
    through, first, second = (Patience(2, 0.0, monitor) for _ in range(3))
    want = told(through, pairs)
    got = told(first, pairs[:cut])
    second.load(first.state())
    got += [second.hear(s, e + cut, loss) for e, (s, loss) in enumerate(pairs[cut:])]
    assert (got, second.state()) == (want, through.state())


# -- the progress display and Ctrl-C -------------------------------------------------------------


def run_at(epoch, finished=False):
    return SimpleNamespace(
        epoch=epoch,
        finished=finished,
        last_loss=0.25,
        meter=SimpleNamespace(epochs=[2.0] * epoch),
        patience=SimpleNamespace(best=0.75, best_epoch=3),
    )


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_first_interrupt_asks_second_stops_and_the_handler_is_put_back(caplog):
    before = signal.getsignal(signal.SIGINT)
    with Progress(5, "seed 0") as progress:
        assert progress.asked_to_stop is False
        with caplog.at_level(logging.WARNING, "gnnscale"):
            press()
        assert progress.asked_to_stop is True
        assert "finishing this epoch" in caplog.text
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_is_put_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), Progress(5, "seed 0"):
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_works_in_another_thread():
    found = []

    def work():
        with Progress(5, "seed 0") as progress:
            progress.show(run_at(1))
            found.append(progress.asked_to_stop)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def clock(monkeypatch):
    """The seconds that the display sees, to be set by the test."""
    now = SimpleNamespace(s=1000.0)
    fake = SimpleNamespace(monotonic=lambda: now.s)
    monkeypatch.setattr("gnnscale.train.progress.time", fake)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    return now


def lines(caplog):
    return [r.getMessage() for r in caplog.records]


def test_plain_lines_now_and_then(caplog, clock):
    with caplog.at_level(logging.INFO, "gnnscale"), Progress(100, "seed 3") as progress:
        for epoch in range(1, 101):
            clock.s += 0.5  # with everything that an epoch needs besides training
            progress.show(run_at(epoch, finished=epoch == 100))
    told = lines(caplog)
    assert len(told) == 10
    assert told[0] == (
        "seed 3 epoch 10/100 loss 0.2500 best valid 0.7500 (epoch 3) 2.000 s/epoch ETA 45 s"
    )
    assert told[-1] == (
        "seed 3 epoch 100/100 loss 0.2500 best valid 0.7500 (epoch 3) 2.000 s/epoch"
    )


def test_eta_of_a_resumed_run_counts_its_own_epochs(caplog, clock):
    with caplog.at_level(logging.INFO, "gnnscale"), Progress(100, "seed 3") as progress:
        for epoch in range(86, 91):
            clock.s += 2
            progress.show(run_at(epoch))
    assert lines(caplog)[-1].endswith("ETA 20 s")


def test_the_last_line_comes_when_training_stops_early(caplog, clock):
    with caplog.at_level(logging.INFO, "gnnscale"), Progress(100, "seed 3") as progress:
        progress.show(run_at(7, finished=True))
    assert [line.split(" loss")[0] for line in lines(caplog)] == ["seed 3 epoch 7/100"]


def test_a_slow_epoch_is_told_at_once(caplog, clock):
    with caplog.at_level(logging.INFO, "gnnscale"), Progress(100, "seed 3") as progress:
        clock.s += Progress.EVERY_S + 1
        progress.show(run_at(1))
        clock.s += 1
        progress.show(run_at(2))
    assert [line.split(" loss")[0] for line in lines(caplog)] == ["seed 3 epoch 1/100"]


def test_before_the_first_evaluation_there_is_no_best(caplog, clock):
    run = run_at(1, finished=True)
    run.patience = Patience(None, 0.0)
    with caplog.at_level(logging.INFO, "gnnscale"), Progress(100, "seed 3") as progress:
        progress.show(run)
    assert lines(caplog) == ["seed 3 epoch 1/100 loss 0.2500 2.000 s/epoch"]


def test_a_bar_on_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with caplog.at_level(logging.INFO, "gnnscale"), Progress(4, "seed 3") as progress:
        assert progress.bar is not None
        progress.show(run_at(2))
        task = progress.bar.tasks[0]
        assert (task.completed, task.total) == (2, 4)
        assert task.fields["text"] == ("loss 0.2500 best valid 0.7500 (epoch 3) 2.000 s/epoch")
    assert caplog.records == []
    assert not progress.bar.live.is_started
