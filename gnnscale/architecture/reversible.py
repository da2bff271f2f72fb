"""RevGNN: hundreds of layers in the activation memory of one."""

from dataclasses import dataclass

from gnnscale.architecture._deep import Coupled


@dataclass(eq=False, repr=False)
class Reversible(Coupled):
    """Reversible layers over any convolution; activation memory does not grow with depth.

    Li, Mueller, Ghanem & Koltun, ICML 2021, arXiv:2106.07476: X'_i = f_i(X'_{i-1}) + X_i over C
    groups of columns, f = conv(dropout(relu(norm))), then norm, ReLU, dropout and a linear head.
    See ``_coupling`` for how, and for departures. groups=1 with keep_activations=true is the
    residual network that the paper compares with (DeeperGCN, Li et al., arXiv:2006.07739).

    Departs from it: the one-hot species of ogbn-proteins have no map of their own (72 parameters);
    they would be features like all others.

    Args: those of ``Coupled``.
    """
