"""What the options of ``Stored`` do, by hand: a component of five nodes, a pair, loops, gaps."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from compositions import quiet_metrics, toy, train

from gnnscale.core.errors import UsageError
from gnnscale.core.sparse import SparseRows, dense
from gnnscale.dataset._base import Raw, Stored
from gnnscale.dataset._files import Remote
from gnnscale.dataset.custom import Custom
from gnnscale.train import checkpoint

SRC, DST = np.array([[0, 1], [1, 2], [2, 0], [2, 3], [3, 4], [4, 4], [0, 1], [5, 6]]).T
"""0 -> 1 twice, 4 a loop; 0 to 4 hang together, 5 and 6 do; only 2 -> 0, 0 -> 1 have no reverse."""
X = np.array([[2, 0, 0], [0, 4, 0], [1, 3, 0], [0, 0, 0], [-1, 1, 0], [0, 1, 7], [5, 5, 7]], float)
Y = np.array([0, 1, 0, 1, 0, -1, 1])
SPLITS = (
    {"train": [1, 0], "valid": [2, 5], "test": [3, 4]},
    {"train": [6, 2], "valid": [0], "test": [1]},
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data/seven").mkdir(parents=True)
    (tmp_path / "data/seven/file").write_text("seven nodes")


@dataclass(frozen=True, kw_only=True)
class Seven(Stored):
    """The graph above, as if it had been read from a file."""

    name: str = "seven"

    @property
    def folder(self):
        return "seven"

    def files(self):
        return [Remote("file")]

    def read(self, folder):
        made = Raw(SRC, DST, 7, Y, 2, X, SPLITS)
        return replace(made, **self.change()) if hasattr(self, "change") else made


@dataclass(frozen=True, kw_only=True)
class Words(Seven):
    """Its features are 4 % dense."""

    def change(self):
        words = np.zeros((7, 50))
        words[np.arange(7), [0, 3, 9, 9, 20, 49, 0]] = 2
        words[0, 1:7] = 6
        return {"x": sp.csr_matrix(words)}


def load(tmp_path, seed=0, kind=Seven, **options):
    made = kind(root=str(tmp_path / "data"), download=False, **options)
    first = made.load(seed)
    again = made.load(seed)  # the first made the cache, the second reads it
    assert torch.equal(dense(first.x), dense(again.x))
    assert type(first.x) is type(again.x)
    assert edges(first) == edges(again)
    assert torch.equal(first.y, again.y)
    assert first.facts == again.facts
    assert {n: i.tolist() for n, i in first.splits.items()} == {
        n: i.tolist() for n, i in again.splits.items()
    }
    return again


def edges(data):
    """(source, target) pairs, ascending by target."""
    return list(zip(data.graph.indices.tolist(), data.graph.dst.tolist(), strict=True))


GIVEN = {(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (5, 6)}
BACK = {(j, i) for i, j in GIVEN}


# -- edges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("loops", ["remove", "keep", "add"])
def test_reverse_edges_and_self_loops(tmp_path, reverse, loops):
    data = load(tmp_path, reverse_edges=reverse, self_loops=loops)
    own = {"remove": set(), "keep": {(4, 4)}, "add": {(i, i) for i in range(7)}}[loops]
    assert set(edges(data)) == GIVEN | (BACK if reverse else set()) | own
    assert len(edges(data)) == len(set(edges(data)))
    facts = data.facts
    assert (facts["reverse_edges"], facts["self_loops"]) == (reverse, loops)
    assert facts["edges_given"] == 8
    assert facts["loops_removed"] == (loops == "remove")
    assert facts["duplicates_removed"] == 1
    assert facts["reversed_added"] == 6 * reverse


def test_largest_component(tmp_path):
    data = load(tmp_path, largest_component=True, reverse_edges=False)
    assert data.nodes == 5
    assert set(edges(data)) == {e for e in GIVEN if max(e) < 5}
    assert dense(data.x).tolist() == X[:5].tolist()
    assert data.y.tolist() == Y[:5].tolist()
    assert data.facts["nodes_outside_largest_component"] == 2
    # nodes that went are in no split any more, also in the second one
    assert {n: i.tolist() for n, i in data.splits.items()} == {
        "train": [0, 1], "valid": [2], "test": [3, 4]
    }  # fmt: skip
    assert load(tmp_path, 1, largest_component=True).splits["train"].tolist() == [2]


# -- features -----------------------------------------------------------------------------------


def test_normalize_row_and_binary(tmp_path):
    total = np.abs(X).sum(1, keepdims=True)
    rows = np.divide(X, total, out=np.zeros_like(X), where=total > 0)
    found = load(tmp_path, normalize="row")
    np.testing.assert_allclose(dense(found.x).numpy(), rows, rtol=1e-6)
    assert found.facts["normalize"] == "row"
    assert dense(load(tmp_path, normalize="binary").x).tolist() == (X != 0).astype(float).tolist()
    assert dense(load(tmp_path, normalize="none").x).tolist() == X.tolist()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", [Seven, Words])
def test_zscore_is_fitted_on_this_splits_training_nodes(tmp_path, seed, kind):
    raw = dense(load(tmp_path, seed, kind).x).double().numpy()
    data = load(tmp_path, seed, kind, normalize="zscore")
    assert isinstance(data.x, torch.Tensor)
    seen = raw[sorted(SPLITS[seed]["train"])]
    std = seen.std(0)
    want = (raw - seen.mean(0)) / np.where(std > 0, std, 1)
    np.testing.assert_allclose(data.x.numpy(), want, atol=1e-6)
    assert abs(raw - raw.mean(0)).max() > 0
    assert not np.allclose(data.x.numpy().mean(0), 0), "not over all nodes"


def test_zscore_needs_training_nodes(tmp_path):
    with pytest.raises(UsageError, match=r"dataset\.normalize=zscore: needs training nodes"):
        load(tmp_path, normalize="zscore", split="none")


def test_kinds_of_features_side_by_side(tmp_path):
    degree = np.log1p(np.array([[2], [2], [3], [2], [1], [1], [1]]))
    parts = {"raw": X, "degree": degree, "one_hot": np.eye(7)}
    for kinds in (["raw"], ["degree"], ["one_hot"], ["one_hot", "raw"], ["raw", "degree"]):
        data = load(tmp_path, features=kinds)
        want = np.hstack([parts[k] for k in kinds])
        np.testing.assert_allclose(dense(data.x).numpy(), want, rtol=1e-6)
        assert data.facts["features"] == "+".join(kinds)
    both = load(tmp_path, features=["spectral", "diffusion"], dimensions=3)
    assert both.x.shape == (7, 6)
    spectral = dense(both.x)[:, :3]
    torch.testing.assert_close(spectral.T @ spectral, torch.eye(3), atol=1e-4, rtol=0)
    # diffusion keeps sums over sqrt(degree)-weighted components: here, that of the pair
    pair = dense(both.x)[5:, 3:]
    np.testing.assert_allclose(pair.sum(0), X[5:].sum(0), rtol=1e-5)


@pytest.mark.parametrize("kind", [Seven, Words])
def test_features_are_sparse_if_few_are_not_zero_or_if_told(tmp_path, kind):
    found = {s: load(tmp_path, kind=kind, sparse=s) for s in (None, True, False)}
    kept = {s: isinstance(data.x, SparseRows) for s, data in found.items()}
    assert kept == {None: kind is Words, True: True, False: False}
    for s, data in found.items():
        assert torch.equal(dense(data.x), dense(found[False].x))
        assert data.facts["sparse_features"] == kept[s]
    assert len(list((tmp_path / "cache").glob("seven-*"))) == 1, "one entry serves all of them"


# -- splits -------------------------------------------------------------------------------------


def splits(data):
    return {n: i.tolist() for n, i in data.splits.items()}


def test_public_splits_are_picked_by_seed_or_by_split_seed(tmp_path):
    want = [{n: sorted(ids) for n, ids in s.items()} for s in SPLITS]
    assert [splits(load(tmp_path, seed)) for seed in range(4)] == [*want, *want]
    assert splits(load(tmp_path, 0, split_seed=1)) == want[1]
    assert splits(load(tmp_path, 1, split_seed=4)) == want[0]
    assert load(tmp_path).facts["public_splits"] == 2


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"split": "per_class", "train_per_class": 1, "valid_per_class": 1}, [2, 2, 2]),
        ({"split": "shares", "train": 0.5, "valid": 0.2}, [3, 1, 2]),
        ({"split": "none"}, [0, 0, 0]),
    ],
)
def test_drawn_splits(tmp_path, options, sizes):
    data = load(tmp_path, **options)
    assert [len(ids) for ids in data.splits.values()] == sizes
    drawn = torch.cat(list(data.splits.values()))
    assert len(drawn.unique()) == len(drawn)
    assert (data.y[drawn] >= 0).all(), "only nodes whose label is known"
    if options["split"] == "per_class":
        assert sorted(data.y[data.splits["train"]].tolist()) == [0, 1]
    by_seed = [splits(load(tmp_path, seed, **options)) for seed in range(6)]
    assert (len({str(s) for s in by_seed}) > 1) == (sizes[0] > 0)
    fixed = [splits(load(tmp_path, seed, split_seed=3, **options)) for seed in range(3)]
    assert fixed == [by_seed[3]] * 3
    assert len(list((tmp_path / "cache").glob("seven-*"))) == 1, "a split makes no entry"


def test_without_a_public_split_another_is_asked_for(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Bare(Seven):
        def change(self):
            return {"splits": ()}

    with pytest.raises(UsageError, match=r"dataset\.split=public: seven has no public split"):
        load(tmp_path, kind=Bare)


# -- features mapped from disk ------------------------------------------------------------------


def is_mapped(tensor, path):
    """Whether a tensor's memory lies in a mapping of the file at ``path``."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(None, 5)
        if name.strip() == str(path):
            start, end = (int(v, 16) for v in span.split("-"))
            if start <= tensor.data_ptr() < end:
                return True
    return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of mappings here")
def test_dense_features_stay_on_disk_from_the_first_use_on(tmp_path):
    data = load(tmp_path)
    (path,) = (tmp_path / "cache").glob("seven-*/x.npy")
    assert is_mapped(data.x, path)
    assert not is_mapped(data.y, path)
    first = Seven(root=str(tmp_path / "data"), reverse_edges=False).load(0)
    (other,) = set((tmp_path / "cache").glob("seven-*/x.npy")) - {path}
    assert is_mapped(first.x, other), "also by whom the entry was made"


@pytest.mark.parametrize("sampler", ["full", "saint", "neighbor"])
def test_training_from_disk_equals_training_from_memory(tmp_path, monkeypatch, sampler):
    draw = np.random.default_rng(0)
    masks = {f"{s}_mask": np.arange(80) % 4 == k for k, s in enumerate(("train", "valid", "test"))}
    np.savez(tmp_path / "g.npz", edges=draw.integers(0, 80, (200, 2)), y=draw.integers(0, 3, 80),
             x=draw.normal(size=(80, 9)), **masks)  # fmt: skip
    plan = toy({"dataset": {"path": str(tmp_path / "g.npz")}}, dataset="custom", sampler=sampler)
    true, seen = Custom.load, []

    def from_memory(self, seed):
        data = true(self, seed)
        return data.with_(x=data.x.clone())

    def from_disk(self, seed):
        data = true(self, seed)
        (path,) = (tmp_path / "cache").glob("g-*/x.npy")
        seen.append(not Path("/proc/self/maps").exists() or is_mapped(data.x, path))
        return data

    for how in (from_disk, from_memory):
        monkeypatch.setattr(Custom, "load", how)
        train(plan, tmp_path / how.__name__)
    assert seen == [True]
    a, b = (tmp_path / how.__name__ / "seed-0" for how in (from_disk, from_memory))
    assert quiet_metrics(a) == quiet_metrics(b)
    weights = [checkpoint.load(p / "checkpoint.pt")["model"] for p in (a, b)]
    assert all(torch.equal(v, weights[1][n]) for n, v in weights[0].items())


def test_unseen_nodes_are_test_nodes_drawn_by_the_seed(tmp_path):
    def load(seed, **options):
        return Seven(root=str(tmp_path / "data"), split="shares", train=0.3, valid=0.2,
                     **options).load(seed)  # fmt: skip

    plain, some = load(0), load(0, unseen=0.4)
    assert {n: v.tolist() for n, v in plain.splits.items()} == {
        n: v.tolist() for n, v in some.splits.items() if n != "unseen"
    }
    test = set(plain.splits["test"].tolist())
    assert len(some.splits["unseen"]) == round(0.4 * len(test)) > 0
    assert set(some.splits["unseen"].tolist()) < test
    drawn = {tuple(load(0, split_seed=s, unseen=0.4).splits["unseen"].tolist()) for s in range(9)}
    assert len(drawn) > 1
    assert load(0, unseen=0.4).splits["unseen"].tolist() == some.splits["unseen"].tolist()


def test_features_of_the_whole_graph_would_show_unseen_nodes(tmp_path):
    wrong = Seven(root=str(tmp_path / "data"), unseen=0.5, features=["raw", "degree"])
    with pytest.raises(UsageError, match="features degree are made of the whole graph; type"):
        wrong.load(0)
