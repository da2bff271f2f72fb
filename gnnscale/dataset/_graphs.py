"""What every set of many small graphs shares: one union of them, features, splits of graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.cache import cached
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, Traits, traits
from gnnscale.core.values import Count, Share, Whole
from gnnscale.dataset._base import Dataset, _code
from gnnscale.dataset._files import Remote, fingerprint, locate
from gnnscale.dataset._splits import fold_split, share_split
from gnnscale.graph.simple import simple
from gnnscale.graph.whole import some_graphs

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class RawGraphs:
    """What a source holds.

    src, dst: [E] node ids in the union, as given. sizes: [G] nodes per graph, in their order.
    y: [G] int64, or [G, C] float32, NaN where unknown. kind, classes, metric: of ``Task``.
    x: [N, F] float32; or int64 codes below ``categories``; None: the source has none.
    edge: [E, F_e], the same of edges. splits: the public ones. names: [G] the source's own ids.
    """

    src: np.ndarray
    dst: np.ndarray
    sizes: np.ndarray
    y: np.ndarray
    kind: str
    classes: int
    metric: str = ""
    x: np.ndarray | None = None
    categories: Sequence[int] = ()
    edge: np.ndarray | None = None
    edge_categories: Sequence[int] = ()
    splits: Sequence[Mapping[str, np.ndarray]] = ()
    names: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GraphSet(Dataset):
    """Many graphs read from files; these options mean the same for all of them.

    Edges become simple and undirected: of several the first one's features count, and a reverse
    that was not given has those of its edge.

    Args:
        root, download: as in ``Stored``.
        split: ``public``, as published; ``folds``, see ``folds``; ``shares``; ``none``, to predict.
        folds: k of a stratified k-fold split. Seed s tests on fold s mod k, validates on the next
            one and trains on the others, so ``seeds=k`` is one cross-validation whose selection
            never sees a test fold.
        train, valid: shares of the graphs, for ``split=shares``; the rest tests.
        split_seed: of the partition into folds, or of the draw of shares; None: 0 for folds, which
            all seeds must share, else the run's seed.
        subset: keep so many graphs, drawn from each part of the split in proportion by seed 0; the
            others are not there at all.
    """

    root: str | None = None
    download: bool = True
    split: Literal["public", "folds", "shares", "none"] = "public"
    folds: Count = 10
    train: Share = 0.8
    valid: Share = 0.1
    split_seed: Whole | None = None
    subset: Count | None = None

    gives: ClassVar[Traits] = traits(Trait.GRAPH)
    SPLITTING: ClassVar = ("root", "download", "split", "folds", "train", "valid", "split_seed",
                           "subset")  # fmt: skip
    """Options that do not alter what is cached."""

    @property
    def title(self) -> str:
        """The dataset's name in records and messages."""
        return str(vars(self).get("name", type(self).__name__.lower())).lower()

    @property
    def folder(self) -> str:
        """The folder of its files under a data root."""
        raise NotImplementedError

    def files(self) -> Sequence[Remote]:
        """What must be there, and where it can be had."""
        raise NotImplementedError

    def read(self, folder: Path) -> RawGraphs:
        """The source's arrays. Raises DataError if a file is damaged or not the published one."""
        raise NotImplementedError

    def present(self, folder: Path) -> list[Path]:
        """The files that ``read`` reads."""
        return [folder / remote.name for remote in self.files()]

    def locate(self) -> Path:
        """Where the files are, downloaded if need be. Raises DataError if they can't be had."""
        return locate(self.root, self.folder, self.files(), self.download)

    def load(self, seed: int) -> GraphData:
        """Read, join and split."""
        where = self.locate()
        key = {
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "options": {
                f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.SPLITTING
            },
            "files": fingerprint(self.present(where)),
            "code": fingerprint(_code(type(self))),
        }
        arrays = cached(self.title, key, lambda: self._prepare(self.read(where)))
        return self._assemble(arrays, seed)

    def _prepare(self, raw: RawGraphs) -> dict[str, Any]:
        """Everything that no seed alters, as arrays and plain values."""
        nodes = int(raw.sizes.sum())
        graph, facts = simple(raw.src, raw.dst, nodes)
        offsets = np.concatenate([[0], np.cumsum(raw.sizes)]).astype(np.int64)
        x, kinds = (degrees(graph), ["degree"]) if raw.x is None else (raw.x, ["given"])
        arrays: dict[str, Any] = {
            "indptr": graph.indptr.numpy(), "indices": graph.indices.numpy(), "offsets": offsets,
            "x": np.ascontiguousarray(x), "y": np.ascontiguousarray(raw.y), "kind": raw.kind,
            "classes": raw.classes, "metric": raw.metric, "public_splits": len(raw.splits),
            "categories": [int(c) for c in raw.categories],
            "edge_categories": [int(c) for c in raw.edge_categories],
        }  # fmt: skip
        if raw.edge is not None:
            arrays["edge"] = np.ascontiguousarray(raw.edge[rows_of(graph, raw.src, raw.dst, nodes)])
        if raw.names is not None:
            arrays["names"] = np.asarray(raw.names)
        for k, split in enumerate(raw.splits):
            arrays |= {f"split_{k}_{name}": np.asarray(ids) for name, ids in split.items()}
        arrays["facts"] = {
            **raw.facts, **facts, "graphs": len(raw.sizes), "edges": graph.n_edges // 2,
            "features": "+".join(kinds), "public_splits": len(raw.splits),
        }  # fmt: skip
        return arrays

    def _assemble(self, a: Mapping[str, Any], seed: int) -> GraphData:
        """The graphs of cached arrays, with this seed's split."""
        y = torch.from_numpy(np.array(a["y"]))
        offsets = torch.from_numpy(np.array(a["offsets"]))
        nodes = int(offsets[-1])
        facts, splits = dict(a["facts"]), self._split(a, y, seed)
        if self.subset is not None:
            splits = self._part(splits)
            facts["subset"] = sum(map(len, splits.values()))
        data = GraphData(
            name=self.title,
            graph=Adjacency(torch.from_numpy(a["indptr"]), torch.from_numpy(a["indices"]), nodes),
            x=torch.from_numpy(a["x"]),
            y=y,
            splits=splits,
            task=Task("graph", str(a["kind"]), int(a["classes"]), str(a["metric"])),
            facts=facts,
            names=a.get("names"),
            offsets=offsets,
            edge=torch.from_numpy(a["edge"]) if "edge" in a else None,
            categories=tuple(a["categories"]),
            edge_categories=tuple(a["edge_categories"]),
        )
        if self.subset is None:
            return data
        part = some_graphs(data, torch.cat(list(splits.values())).sort().values)
        return part.with_(facts={**facts, "graphs": part.items, "edges": part.graph.n_edges // 2})

    def _split(self, a: Mapping[str, Any], y: Tensor, seed: int) -> dict[str, Tensor]:
        drawn = seed if self.split_seed is None else self.split_seed
        if self.split == "folds":
            return fold_split(y, self.folds, seed, Key(self.split_seed or 0, self._purpose))
        if self.split == "shares":
            return share_split(y, self.train, self.valid, Key(drawn, self._purpose))
        if self.split == "none":
            return {n: torch.empty(0, dtype=torch.int64) for n in PARTS}
        if not a["public_splits"]:
            raise UsageError(
                f"dataset.split=public: {self.title} has no public split; type "
                "dataset.split=folds or dataset.split=shares"
            )
        k = drawn % a["public_splits"]
        return {n: torch.from_numpy(np.array(a[f"split_{k}_{n}"])) for n in PARTS}

    @property
    def _purpose(self) -> str:
        return f"dataset.{self.title}.split"

    def _part(self, splits: dict[str, Tensor]) -> dict[str, Tensor]:
        total = sum(map(len, splits.values()))
        wanted = self.subset or total
        if not len(PARTS) <= wanted <= total:
            raise UsageError(
                f"dataset.subset={wanted}: {self.title} has {total} graphs in its split; choose "
                f"{len(PARTS)} to {total}"
            )
        rng = Key(0, f"dataset.{self.title}.subset").numpy()
        kept = {}
        for name, ids in splits.items():
            size = max(1, round(wanted * len(ids) / total))
            kept[name] = ids[torch.from_numpy(np.sort(rng.permutation(len(ids))[:size]))]
        return kept


def degrees(graph: Adjacency) -> np.ndarray:
    """[N, largest degree + 1] one-hot in-degrees, what GIN reads where nodes have no labels.

    Xu et al., ICLR 2019, arXiv:1810.00826, sec. 7 (social networks).
    """
    d = graph.in_degree.long()
    return torch.nn.functional.one_hot(d).float().numpy()


def rows_of(graph: Adjacency, src: np.ndarray, dst: np.ndarray, nodes: int) -> np.ndarray:
    """[E'] for every edge of a graph the row of the list that it came from, itself or reversed."""
    key = dst.astype(np.int64) * nodes + src
    listed, first = np.unique(key, return_index=True)  # of several the first
    i, j = graph.dst.numpy().astype(np.int64), graph.indices.numpy().astype(np.int64)
    rows = np.zeros(len(i), np.int64)
    for wanted in (j * nodes + i, i * nodes + j):  # the edge itself wins over its reverse
        at = np.searchsorted(listed, wanted).clip(max=max(len(listed) - 1, 0))
        hit = listed[at] == wanted
        rows[hit] = first[at[hit]]
    return rows
