"""Twitch streamers who are friends, by language; some channels carry mature content.

Rozemberczki, Allen & Sarkar, "Multi-Scale Attributed Node Embedding", 2021, arXiv:1909.13021; used
as a heterophilous set by Lim et al., NeurIPS 2021, arXiv:2110.14446, whose files these are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse as sp

from gnnscale.core.errors import DataError
from gnnscale.dataset._arrays import published
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote
from gnnscale.dataset._text import integers, table

SITE = "https://github.com/CUAI/Non-Homophily-Large-Scale/raw/master/data/twitch"
FEATURES = 3170
COUNTS = {"DE": (9498, 153138)}
"""Nodes and edges as listed, where they are known to us."""


@dataclass(frozen=True)
class Twitch(Stored):
    """One language's friendship graph; multi-hot games, location and habits; two classes.

    The files' own splits are pickled objects and are not read; Lim et al. draw 50 / 25 / 25 %.
    Scored by ROC-AUC, as there (sec. 5).

    Args:
        language: which graph. Others: ``Stored``.

    Shapes: x [N, 3170] sparse, y [N] int64.
    Raises: DataError if files are missing, damaged or not the published ones.
    """

    language: Literal["DE", "ENGB", "ES", "FR", "PTBR", "RU", "TW"] = "DE"

    @property
    def title(self) -> str:
        """Name and language."""
        return f"twitch_{self.language.lower()}"

    @property
    def folder(self) -> str:
        """One per language."""
        return f"twitch/{self.language}"

    def files(self) -> Sequence[Remote]:
        """Edges, features and targets."""
        names = ("edges.csv", "features.json", "target.csv")
        files = [f"musae_{self.language}_{n}" for n in names]
        return [Remote(f, f"{SITE}/{self.language}/{f}") for f in files]

    def read(self, folder: Path) -> Raw:
        """Node ids are those of ``new_id`` in the target table."""
        edges_path, features_path, target_path = (folder / f.name for f in self.files())
        target = table(target_path, ["new_id", "mature"])
        ids = integers(target_path, target, "new_id")
        n = len(ids)
        if not np.array_equal(np.sort(ids), np.arange(n)):
            raise DataError(f"{target_path}: column new_id must number the nodes 0 to {n - 1}")
        said = target["mature"].astype(str).str.strip().str.lower()
        wrong = np.flatnonzero(~said.isin(["true", "false"]))
        if len(wrong):
            raise DataError(
                f"{target_path}: column mature, row {wrong[0] + 2}: '{said[wrong[0]]}' is neither "
                "True nor False"
            )
        y = np.empty(n, np.int64)
        y[ids] = said == "true"
        edges = table(edges_path, ["from", "to"])
        ends = [integers(edges_path, edges, name, n) for name in ("from", "to")]
        if self.language in COUNTS:
            found = (n, len(edges))
            published(target_path, self.title, found, COUNTS[self.language], "(nodes, edges)")
        return Raw(
            ends[0], ends[1], n, y, 2, self._habits(features_path, n), metric="roc_auc",
            facts={"classes": ["not mature", "mature"]},
        )  # fmt: skip

    def _habits(self, path: Path, nodes: int) -> sp.csr_matrix:
        """Multi-hot rows; a feature that is listed twice counts once."""
        try:
            lists = json.loads(path.read_text())
            rows = np.repeat([int(k) for k in lists], [len(v) for v in lists.values()])
            columns = np.array([f for v in lists.values() for f in v], np.int64)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path}: damaged, lists of features by node expected ({error})"
            ) from error
        inside = (rows >= 0) & (rows < nodes) & (columns >= 0) & (columns < FEATURES)
        if not inside.all():
            at = int(np.flatnonzero(~inside)[0])
            raise DataError(
                f"{path}: node {rows[at]}, feature {columns[at]}: valid are nodes below {nodes} "
                f"and features below {FEATURES}"
            )
        x = sp.coo_matrix((np.ones(len(rows)), (rows, columns)), (nodes, FEATURES)).tocsr()
        x.data[:] = 1
        return x
