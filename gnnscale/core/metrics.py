"""What scores there are, for which tasks, and which way is better; loads no torch."""

from typing import NamedTuple


class Metric(NamedTuple):
    """kinds: of tasks it is for, see ``Task``. higher: more is better. percent: told in percent."""

    kinds: tuple[str, ...]
    higher: bool = True
    percent: bool = True

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.higher else -1


METRICS = {
    "accuracy": Metric(("single",)),
    "overlap": Metric(("single",)),
    "macro_f1": Metric(("single", "multi")),
    "micro_f1": Metric(("multi", "single")),
    "roc_auc": Metric(("multi", "single")),
    "average_precision": Metric(("multi", "single")),
    "mae": Metric(("regression",), higher=False, percent=False),
    "rmse": Metric(("regression",), higher=False, percent=False),
}
USUAL = {"single": "accuracy", "multi": "micro_f1", "regression": "mae"}
"""The score of each kind of task if none is named."""


def scale_of(name: str) -> float:
    """What a stored score is multiplied by where it is told: 100 for those told in percent."""
    return 100.0 if name not in METRICS or METRICS[name].percent else 1.0


def told(name: str, scaled: float) -> str:
    """A score, times ``scale_of(name)``, as a line of a log or a table tells it."""
    return f"{scaled:.2f}" if scale_of(name) != 1 else f"{scaled:.4f}"
