"""ZINC molecules with their penalised logP, a regression on graphs.

Irwin et al., J. Chem. Inf. Model. 2012; target and molecules of Jin et al., ICML 2018,
arXiv:1802.04364; the 12,000 of Dwivedi et al., JMLR 2023, arXiv:2003.00982.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnnscale.core.errors import DataError
from gnnscale.dataset._files import Remote, reading
from gnnscale.dataset._graphs import GraphSet, RawGraphs

FILE = "zinc_jtnn_graphs.npz"
GRAPHS = 29445
SPLIT = {"train": "suggested_train_idx", "valid": "official12k_val_idx",
         "test": "official12k_test_idx"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Zinc(GraphSet):
    """29,445 molecules, atoms and bonds as codes; y = logP - synthetic accessibility - cycles.

    Validation and test are the 1,000 each of ZINC-12k. Its 10,000 training molecules are not among
    these; the other 23,445 train, or a ``subset``, so scores can't be held against published ones.

    Args: those of ``GraphSet``.

    Shapes: x [N, 1] and edge [E, 1] int64 codes; y [G, 1] float32.
    Raises: DataError if the file is missing, damaged or another one.
    """

    @property
    def folder(self) -> str:
        """Below a data root."""
        return "zinc_jtnn"

    def files(self) -> Sequence[Remote]:
        """One file, which has no address of its own."""
        return [Remote(FILE)]

    def read(self, folder: Path) -> RawGraphs:
        """The arrays, checked."""
        path = folder / FILE
        with reading(path, "its own layout", "get the original"), np.load(path) as a:
            sizes, bonds = a["num_nodes"].astype(np.int64), a["num_bonds"].astype(np.int64)
            atom, bond = a["atom_type"].astype(np.int64), a["bond_type"].astype(np.int64)
            ends, y = a["bond_index"].astype(np.int64), a["y"].astype(np.float32)
            kinds = [str(name) for name in a["atom_type_names"]]
            split = {name: a[key].astype(np.int64) for name, key in SPLIT.items()}
        found = (len(sizes), len(bonds), len(y), len(atom), *ends.shape, len(bond))
        if found != (GRAPHS, GRAPHS, GRAPHS, sizes.sum(), 2, bonds.sum(), bonds.sum()):
            raise DataError(f"{path}: not the published file: its arrays hold {found} entries")
        owner = np.repeat(np.arange(GRAPHS), bonds)
        if (ends >= sizes[owner]).any() or atom.max() >= len(kinds) or not np.isfinite(y).all():
            raise DataError(f"{path}: a bond leaves its molecule, a kind of atom has no name, or a "
                            "target is not finite")  # fmt: skip
        ends = ends + (np.cumsum(sizes) - sizes)[owner]
        return RawGraphs(
            ends[0], ends[1], sizes, y[:, None], "regression", 1, "mae", atom[:, None],
            (len(kinds),), bond[:, None], (int(bond.max()) + 1,), [split], facts={"atoms": kinds},
        )  # fmt: skip
