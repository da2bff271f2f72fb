"""Feed-forward parts of models whose features were propagated beforehand."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from gnnscale.architecture._base import ACTIVATIONS, NORMS, Dropout
from gnnscale.core.site import Dense


def feed_forward(
    widths: Sequence[int], first: float, dropout: float, act: str, norm: str
) -> list[nn.Sequential]:
    """Dropout, linear map, norm, activation for each pair of widths; the last is only linear.

    One activation serves all of them, so that a PReLU has one slope. ``first``: the first rate.
    """
    shared, found = ACTIVATIONS[act](), []
    for i, (a, b) in enumerate(pairwise(widths)):
        after = [NORMS[norm](b), shared] if i < len(widths) - 2 else []
        found.append(nn.Sequential(Dropout(dropout if i else first), Dense(a, b), *after))
    return found


def linear(part: nn.Module) -> Dense:
    """The first linear map of a part."""
    return next(m for m in part.modules() if isinstance(m, Dense))
