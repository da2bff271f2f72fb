"""What every dataset shares: one way from a source's arrays to a graph, its features and splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gnnscale.core.cache import cached
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Component, Trait, Traits, traits
from gnnscale.core.values import Count, Rate, Share, Whole
from gnnscale.dataset import _edges, _features
from gnnscale.dataset._files import Remote, fingerprint, locate
from gnnscale.dataset._splits import per_class_split, share_split, shchur_split

SPARSE_BELOW = 0.05
"""Share of entries that are not zero up to which ``sparse=null`` keeps features sparse."""


class Dataset(Component):
    """A source of one attributed graph; constructing it reads nothing."""

    gives: ClassVar[Traits] = traits(Trait.NODE)

    def load(self, seed: int) -> GraphData:
        """Read or make the graph; ``seed`` is the run's and decides whatever is drawn at random.

        Raises: DataError if files are missing or malformed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Raw:
    """What a source holds, before any transform.

    src, dst: [E] node ids of the edges as given. nodes: N. y: [N] int64, -1 where unknown, or
    [N, C] float32, NaN rows where unknown. classes: C. x: [N, F] dense or CSR, or None.
    splits: the public ones, one or several (the seed picks one); () if there are none. weight: [E].
    names: [N] the source's own node ids, if they are not 0 .. N - 1. inductive: as published.
    facts: what the reader did, for the record. metric: of ``Task``; None: the kind's usual one.
    """

    src: np.ndarray
    dst: np.ndarray
    nodes: int
    y: np.ndarray
    classes: int
    x: np.ndarray | sp.csr_matrix | None = None
    splits: Sequence[Mapping[str, np.ndarray]] = ()
    weight: np.ndarray | None = None
    names: np.ndarray | None = None
    inductive: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stored(Dataset):
    """A dataset read from files; these options mean the same for all of them.

    A subclass has a ``name`` and says where its files are (``folder``, ``files``) and how they are
    read (``read``). What comes out is cached, keyed by the files' content and the options.

    Args:
        root: data folders, separated as in $PATH; searched before $GNNSCALE_DATA and ./data.
        download: fetch missing files whose source is public.
        split: ``public``, as published (the seed picks one of several); ``per_class``; ``shchur``,
            per class as published work drew it with this seed; ``shares``; ``none``, to predict
            only.
        train_per_class, valid_per_class: nodes drawn per class; every other labelled node tests.
        train, valid: shares of the labelled nodes, for ``split=shares``; the rest tests.
        split_seed: of the draw, or which of several public splits; None: the run's seed.
        unseen: share of the test nodes that training and selection don't see (GLNN's production
            setting), drawn by the same seed.
        reverse_edges: add the reverse of every edge. False: edges stay as directed by the source.
        self_loops: remove, keep, or add one per node; an operator's own (A + I) come on top.
        largest_component: keep the largest connected component only.
        normalize: of the source's features: none, row (rows sum to 1), binary (1 where not 0),
            zscore (over training nodes, dense).
        features: kinds side by side: raw, spectral, diffusion, degree, one_hot (node ids).
        dimensions: columns of the spectral kind.
        sparse: keep features as sparse rows; None: where at most 5 % of the entries are not 0.
    """

    root: str | None = None
    download: bool = True
    split: Literal["public", "per_class", "shchur", "shares", "none"] = "public"
    train_per_class: Count = 20
    valid_per_class: Count = 30
    train: Share = 0.6
    valid: Share = 0.2
    split_seed: Whole | None = None
    unseen: Rate = 0.0
    reverse_edges: bool = True
    self_loops: Literal["remove", "keep", "add"] = "remove"
    largest_component: bool = False
    normalize: Literal["none", "row", "binary", "zscore"] = "none"
    features: list[Literal["raw", "spectral", "diffusion", "degree", "one_hot"]] = field(
        default_factory=lambda: ["raw"]
    )
    dimensions: Count = 128
    sparse: bool | None = None

    SPLITTING: ClassVar = ("root", "download", "split", "train_per_class", "valid_per_class",
                           "train", "valid", "split_seed", "unseen", "sparse")  # fmt: skip
    """Options that do not alter what is cached."""

    # -- what a subclass says --------------------------------------------------------------------

    @property
    def title(self) -> str:
        """The dataset's name in records and messages."""
        return str(vars(self).get("name", type(self).__name__.lower()))

    @property
    def folder(self) -> str:
        """The folder of its files under a data root."""
        raise NotImplementedError

    def files(self) -> Sequence[Remote]:
        """What must be there, and where it can be had."""
        raise NotImplementedError

    def read(self, folder: Path) -> Raw:
        """The source's arrays. Raises DataError if a file is damaged or not the published one."""
        raise NotImplementedError

    # -- what is the same for all ----------------------------------------------------------------

    def locate(self) -> Path:
        """Where the files are, downloaded if need be. Raises DataError if they can't be had."""
        return locate(self.root, self.folder, self.files(), self.download)

    def load(self, seed: int) -> GraphData:
        """Read, transform and split; ``split_seed``, else ``seed``, draws or picks the split."""
        where = self.locate()
        key = {
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "options": {
                f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.SPLITTING
            },
            "files": fingerprint([where / remote.name for remote in self.files()]),
            "code": fingerprint(_code(type(self))),
        }
        arrays = cached(self.title, key, lambda: self._prepare(self.read(where)), mmap=("x",))
        return self._assemble(arrays, seed)

    def _prepare(self, raw: Raw) -> dict[str, Any]:
        """Everything that no seed alters, as arrays and plain values."""
        src, dst, weight = raw.src, raw.dst, raw.weight
        kept = np.arange(raw.nodes)
        if self.largest_component:
            kept = _edges.largest_component(src, dst, raw.nodes)
            src, dst, weight = _edges.restrict(src, dst, weight, kept, raw.nodes)
        graph, graph_weight, facts = _edges.adjacency(
            src, dst, len(kept), weight=weight,
            reverse_edges=self.reverse_edges, self_loops=self.self_loops,
        )  # fmt: skip
        own = None if raw.x is None else raw.x[kept]
        x = _features.build(
            own, graph, self.features, self.normalize, self.dimensions, self.title
        )  # fmt: skip
        y = np.ascontiguousarray(raw.y[kept])
        arrays: dict[str, Any] = {
            "indptr": graph.indptr.numpy(), "indices": graph.indices.numpy(),
            "y": y.astype(np.int64 if y.ndim == 1 else np.float32),
            "classes": raw.classes, "inductive": raw.inductive, "public_splits": len(raw.splits),
            "width": x.shape[1], "metric": raw.metric or "",
        }  # fmt: skip
        if graph_weight is not None:
            arrays["weight"] = graph_weight.numpy()
        if raw.names is not None:
            arrays["names"] = np.asarray(raw.names)[kept]
        if sp.issparse(x) or np.count_nonzero(x) <= SPARSE_BELOW * x.size:
            x = sp.csr_matrix(x)
            x.sort_indices()
            arrays |= {"x_indptr": x.indptr.astype(np.int64), "x_indices": x.indices,
                       "x_data": x.data.astype(np.float32)}  # fmt: skip
        else:
            arrays["x"] = np.ascontiguousarray(x, np.float32)
        place = np.full(raw.nodes, -1, np.int64)
        place[kept] = np.arange(len(kept))
        for k, split in enumerate(raw.splits):
            for name, ids in split.items():
                at = place[np.asarray(ids)]
                arrays[f"split_{k}_{name}"] = np.sort(at[at >= 0])
        arrays["facts"] = {
            **raw.facts,
            **facts,
            "edges": graph.n_edges // 2 if self.reverse_edges else graph.n_edges,
            "reverse_edges": self.reverse_edges,
            "self_loops": self.self_loops,
            "features": "+".join(self.features),
            "normalize": self.normalize,
            "nodes_outside_largest_component": raw.nodes - len(kept),
            "public_splits": len(raw.splits),
        }
        return arrays

    def _assemble(self, a: Mapping[str, Any], seed: int) -> GraphData:
        """The graph of cached arrays, with this seed's split."""
        y = torch.from_numpy(np.array(a["y"]))
        nodes = len(y)
        splits = self._split(a, y, seed)
        if self.unseen:
            splits["unseen"] = self._unseen(splits["test"], bool(a["inductive"]), seed)
        facts = dict(a["facts"])
        x = self._features(a, nodes)
        if self.normalize == "zscore":
            if not len(splits["train"]):
                raise UsageError(
                    "dataset.normalize=zscore: needs training nodes to take mean and deviation "
                    "from; a graph to predict on has none: train with dataset.normalize=none or row"
                )
            x = _features.zscore(x.dense() if isinstance(x, SparseRows) else x, splits["train"])
        facts["sparse_features"] = isinstance(x, SparseRows)
        single = y.dim() == 1
        return GraphData(
            name=self.title,
            graph=Adjacency(torch.from_numpy(a["indptr"]), torch.from_numpy(a["indices"]), nodes),
            x=x,
            y=y,
            splits=splits,
            task=Task("node", "single" if single else "multi", int(a["classes"]), str(a["metric"])),
            inductive=bool(a["inductive"]),
            facts=facts,
            weight=torch.from_numpy(a["weight"]) if "weight" in a else None,
            names=a.get("names"),
        )

    def _features(self, a: Mapping[str, Any], nodes: int) -> Tensor | SparseRows:
        if "x" in a:
            full = torch.from_numpy(a["x"])
            return SparseRows.from_dense(full) if self.sparse else full
        parts = (torch.from_numpy(a[f"x_{n}"]) for n in ("indptr", "indices", "data"))
        x = SparseRows(*parts, int(a["width"]))
        share = len(x.values) / max(1, nodes * int(a["width"]))
        keep = share <= SPARSE_BELOW if self.sparse is None else self.sparse
        return x if keep else x.dense()

    def _unseen(self, test: Tensor, inductive: bool, seed: int) -> Tensor:
        """The test nodes that are left out, in order."""
        whole = {"spectral", "diffusion", "degree"} & set(self.features)
        if inductive or whole:
            why, remedy = "training sees nothing but its own nodes anyway", "dataset.unseen=0"
            if whole:
                why = f"features {', '.join(sorted(whole))} are made of the whole graph"
                remedy += " or dataset.features=[raw]"
            raise UsageError(f"dataset.unseen={self.unseen}: of {self.title}, {why}; type {remedy}")
        drawn = seed if self.split_seed is None else self.split_seed
        key = Key(drawn, f"dataset.{self.title}.unseen")
        chosen = torch.randperm(len(test), generator=key.torch())[: round(self.unseen * len(test))]
        return test[chosen].sort().values

    def _split(self, a: Mapping[str, Any], y: Tensor, seed: int) -> dict[str, Tensor]:
        drawn = seed if self.split_seed is None else self.split_seed
        key = Key(drawn, f"dataset.{self.title}.split")
        if self.split == "per_class":
            return per_class_split(y, self.train_per_class, self.valid_per_class, key)
        if self.split == "shchur":
            return shchur_split(y, self.train_per_class, self.valid_per_class, drawn)
        if self.split == "shares":
            return share_split(y, self.train, self.valid, key)
        if self.split == "none":
            return {n: torch.empty(0, dtype=torch.int64) for n in ("train", "valid", "test")}
        count = a["public_splits"]
        if not count:
            raise UsageError(
                f"dataset.split=public: {self.title} has no public split; type "
                "dataset.split=per_class or dataset.split=shares"
            )
        return {
            name: torch.from_numpy(np.array(a[f"split_{drawn % count}_{name}"]))
            for name in ("train", "valid", "test")
        }


def _code(cls: type) -> list[Path]:
    """The source files that decide what is cached."""
    import inspect

    here = Path(__file__).parent
    own = [Path(inspect.getfile(c)) for c in cls.__mro__ if c.__module__.startswith("gnnscale.")]
    return sorted({*own, *here.glob("_*.py")})
