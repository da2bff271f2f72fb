"""Weight-tied RevGNN: a few layers, gone through again and again."""

from dataclasses import dataclass

from gnnscale.architecture._base import divisible
from gnnscale.architecture._deep import Coupled
from gnnscale.core.values import Count


@dataclass(eq=False, repr=False)
class Tied(Coupled):
    """``depth`` layers that share the weights of ``unit`` distinct ones: as many parameters.

    Li, Mueller, Ghanem & Koltun, ICML 2021, arXiv:2106.07476 (WT-RevGNN; WT-ResGNN with
    groups=1 and keep_activations=true). The paper speaks of one shared layer; its parameter counts
    are those of two, hence ``unit``. Batch norm's running statistics, if there are any, move at
    every application; the paper uses layer norm.

    Args:
        unit: k, distinct layers, gone through in turn; divides depth. Others: ``Coupled``.

    Raises: UsageError if unit does not divide depth.
    """

    unit: Count = 2

    def distinct(self) -> int:
        """k."""
        divisible("architecture.depth", self.depth, "architecture.unit", self.unit)
        return self.unit
