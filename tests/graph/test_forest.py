import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph import forest, walk
from gnnscale.graph.forest import NO_REVISIT, NODE2VEC, UNIFORM, Forests
from gnnscale.graph.induce import scratch

WORD = np.uint64(77)
BIASES = [(UNIFORM, 1.0, 1.0), (NODE2VEC, 0.5, 3.0), (NO_REVISIT, 1.0, 1.0)]
biases = pytest.mark.parametrize("bias", BIASES, ids=["uniform", "node2vec", "no_revisit"])

PAIRS = [(0, 1), (0, 2), (1, 2), (1, 3), (3, 4)]
"""0 - 1 - 2 a triangle, 1 - 3 - 4 a tail."""


@pytest.fixture
def house():
    src, dst = torch.tensor(PAIRS).T
    return Adjacency.from_edges(torch.cat([src, dst]), torch.cat([dst, src]), 5)


def unsorted(adj):
    """The same rows, each in falling order."""
    order = torch.cat([
        torch.arange(int(b) - 1, int(a) - 1, -1) for a, b in itertools.pairwise(adj.indptr)
    ])  # fmt: skip
    return Adjacency(adj.indptr, adj.indices[order])


def levels(values, seeds, fanouts):
    sizes = [seeds * int(np.prod(fanouts[:k])) for k in range(len(fanouts) + 1)]
    return values.split(sizes)


def fits(seen, p):
    """Counts against probabilities, chi-square at 0.1 % from either side."""
    expected = seen.sum() * p
    assert (seen[p == 0] == 0).all()
    few = (p > 0).sum() - 1
    if few == 0:
        return True
    statistic = ((seen - expected)[p > 0] ** 2 / expected[p > 0]).sum()
    return 1e-3 < chi2.sf(statistic, few) < 1 - 1e-5


# -- the walks ------------------------------------------------------------------------------------


@biases
@pytest.mark.parametrize("fanouts", [[3], [4, 2, 3], [1, 1, 1, 1], []])
def test_every_step_is_an_edge(bias, fanouts, six, sixty):
    for adj in (six, sixty.graph, unsorted(sixty.graph)):
        seeds = torch.tensor([5, 0, 3, 3])
        nodes, edges = Forests(adj, *bias).draw(seeds, fanouts, WORD)
        trees, by = levels(nodes, 4, fanouts), levels(edges, 4, fanouts)
        assert torch.equal(trees[0], seeds.int())
        assert (by[0] == -1).all()
        for k, f in enumerate(fanouts):
            mothers = trees[k].repeat_interleave(f)
            stays = adj.in_degree[mothers.long()] == 0
            assert torch.equal(by[k + 1] < 0, stays)
            assert torch.equal(trees[k + 1][stays], mothers[stays])
            e = by[k + 1][~stays]
            assert torch.equal(adj.dst[e], mothers[~stays])
            assert torch.equal(adj.indices[e], trees[k + 1][~stays])
        # two trees of one seed are the same
        for level in trees:
            tree = level.view(4, -1)
            assert torch.equal(tree[2], tree[3])


def test_uniform_draws_are_the_plain_algorithm(sixty):
    adj, fanouts, seeds = sixty.graph, [3, 2], [4, 30]
    nodes, edges = Forests(adj).draw(torch.tensor(seeds), fanouts, WORD)
    expected, where, size = [list(seeds)], [[-1, -1]], 1
    for k, f in enumerate(fanouts):
        size *= f
        level, places = [], []
        for i in range(len(seeds) * size):
            v = expected[k][i // f]
            stream = np.uint64(walk.draw(WORD, seeds[i // size]))
            stream = np.uint64(walk.draw(stream, k))
            at = int(adj.indptr[v]) + walk.below(stream, i % size, int(adj.in_degree[v]))
            level.append(int(adj.indices[at]))
            places.append(at)
        expected.append(level)
        where.append(places)
    assert nodes.tolist() == list(itertools.chain(*expected))
    assert edges.tolist() == list(itertools.chain(*where))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_leaves_are_distributed_as_rows_of_powers_of_the_transition_matrix(depth, house, dense):
    """With fan-outs n, 1, 1, ... the leaves of a tree are independent."""
    walk_, draws = dense(house) / house.in_degree.unsqueeze(1), 20_000
    power = torch.linalg.matrix_power(walk_, depth)
    nodes, _ = Forests(house).draw(torch.arange(5), [draws] + [1] * (depth - 1), WORD)
    for root, leaves in enumerate(nodes[-5 * draws :].view(5, draws)):
        assert fits(np.bincount(leaves.numpy(), minlength=5), power[root].numpy())


@pytest.mark.parametrize(("p", "q"), [(0.25, 4.0), (4.0, 0.5), (1.0, 1.0), (300.0, 300.0)])
def test_node2vec_transitions_by_hand(p, q, house):
    """From 1 after 0: 0 is back, 2 is a neighbour of 0, 3 is not. The last pair draws mostly from
    the tabulated distribution: 98 % of proposals are rejected without a common neighbour.
    """
    hand = {
        (0, 1): {0: 1 / p, 2: 1, 3: 1 / q},
        (3, 1): {3: 1 / p, 0: 1 / q, 2: 1 / q},
        (1, 3): {1: 1 / p, 4: 1 / q},
        (3, 4): {3: 1 / p},
        (2, 0): {2: 1 / p, 1: 1},
    }
    draws = 40_000
    nodes, _ = Forests(house, NODE2VEC, p, q).draw(torch.arange(5), [draws, 1], WORD)
    _, first, second = levels(nodes, 5, [draws, 1])
    for (t, v), weights in hand.items():
        chosen = second.view(5, draws)[t][first.view(5, draws)[t] == v].numpy()
        expected = np.zeros(5)
        for x, weight in weights.items():
            expected[x] = weight / sum(weights.values())
        assert len(chosen) > draws / 4
        seen = np.bincount(chosen, minlength=5)
        if len(weights) == 1:
            assert seen[3] == len(chosen)
        else:
            assert fits(seen, expected), (t, v)
    uniform = np.bincount(first.view(5, draws)[1].numpy(), minlength=5)
    assert fits(uniform, np.array([1, 0, 1, 1, 0]) / 3)  # the first step knows no way back


def test_rejections_and_the_table_together_have_the_right_distribution(house):
    """The table is used after 32 rejections: here in e^(-32 / 300) = 90 % of draws."""
    draws = 30_000
    stream = [np.uint64(walk.draw(WORD, i)) for i in range(draws)]
    forests = Forests(house, NODE2VEC, 300.0, 300.0)
    path = np.array([3, 1], np.int32)
    at = [
        forest._biased(forests.indptr, forests.columns, path, NODE2VEC, 300.0, 300.0, s)
        for s in stream
    ]
    seen = np.bincount(forests.columns[at], minlength=5)
    assert fits(seen, np.array([1, 0, 1, 1, 0]) / 3)


def test_walks_without_revisits_avoid_their_way_while_they_can(house):
    nodes, _ = Forests(house, NO_REVISIT).draw(torch.arange(5), [500, 1, 1, 1], WORD)
    trees = [t.view(5, -1) for t in levels(nodes, 5, [500, 1, 1, 1])]
    paths = torch.stack([trees[0].expand(5, 500), *trees[1:]], 2)
    for root, walks in enumerate(paths.tolist()):
        for way in walks:
            for k in range(1, len(way)):
                v = way[k - 1]
                into = set(house.indices[house.indptr[v] : house.indptr[v + 1]].tolist())
                fresh = into - set(way[:k])
                assert way[k] in (fresh or into), (root, way)
    # from 0 by 1: 2 and 3 alike
    second = trees[2][0][trees[1][0] == 1].numpy()
    assert fits(np.bincount(second, minlength=5), np.array([0, 0, 1, 1, 0]) / 2)


@biases
def test_a_seeds_tree_depends_on_neither_its_mates_nor_what_was_drawn(bias, sixty):
    forests, fanouts = Forests(sixty.graph, *bias), [3, 2, 2]
    seeds = torch.tensor([9, 30, 4])
    together = levels(forests.draw(seeds, fanouts, WORD)[0], 3, fanouts)
    for i, seed in enumerate(seeds):
        apart = levels(forests.draw(seed.view(1), fanouts, WORD)[0], 1, fanouts)
        for a, b in zip(together, apart, strict=True):
            assert torch.equal(a.view(3, -1)[i], b)
    other = forests.draw(seeds, fanouts, np.uint64(78))[0]
    assert not torch.equal(torch.cat(together), other)


# -- reverses, the sampled graph, the tree ---------------------------------------------------------


def test_reverses(six, sixty):
    for adj in (six, sixty.graph, unsorted(sixty.graph)):
        ends = list(zip(adj.indices.tolist(), adj.dst.tolist(), strict=True))
        place = {pair: e for e, pair in enumerate(ends)}
        assert Forests(adj).reverse().tolist() == [place.get((i, j), -1) for j, i in ends]
    # the n-th of several edges is the reverse of the n-th; a self-loop is its own
    src, dst = torch.tensor([0, 1, 1, 0, 2]), torch.tensor([1, 0, 0, 0, 2])
    several = Adjacency.from_edges(src, dst, 3)  # 0 <- 0 1 1, 1 <- 0, 2 <- 2
    assert Forests(several).reverse().tolist() == [0, 3, -1, 1, 4]


def test_the_sampled_graph_by_hand(six):
    # 0 <- 1 2 4, 1 <- 0, 2 <- 0 1 3 4, 3 <- 2, 4 <- 3; edges numbered in this order
    reverse = Forests(six).reverse()
    assert reverse.tolist() == [3, 4, -1, 0, 1, -1, 8, -1, 6, -1]
    nodes = torch.tensor([2, 5, 4, 3, 4, 5, 5, 5], dtype=torch.int32)
    edges = torch.tensor([-1, -1, 7, 6, 7, -1, -1, -1])
    ids, graph = forest.touched(six, nodes, edges, reverse)
    assert ids.tolist() == [2, 3, 4, 5]
    assert graph.edges.tolist() == [6, 7, 8]  # 2 <- 3, 2 <- 4, and 3 <- 2; 4 <- 2 is no edge
    assert graph.indptr.tolist() == [0, 2, 3, 3, 3]
    assert graph.indices.tolist() == [1, 2, 0]
    assert (scratch(6) == -1).all()


def test_the_tree_by_hand():
    # two seeds, the second stays; fan-outs 2, 1
    edges = torch.tensor([-1, -1, 7, 8, -1, -1, 3, -1, -1, -1])
    starts, tree = forest.tree(edges, 2, [2, 1], False)
    assert starts.tolist() == [0, 2, 6, 10]
    assert tree.indptr.tolist() == [0, 2, 2, 3, 3, 3, 3]
    assert tree.indices.tolist() == [2, 3, 6]
    assert tree.edges.tolist() == [7, 8, 3]
    _, loops = forest.tree(edges, 2, [2, 1], True)
    assert loops.indptr.tolist() == [0, 3, 4, 6, 7, 8, 9]
    assert loops.indices.tolist() == [2, 3, 0, 1, 6, 2, 3, 4, 5]
    assert loops.edges.tolist() == [7, 8, -1, -1, 3, -1, -1, -1, -1]


def test_no_seeds_and_no_edges(sixty):
    none = torch.empty(0, dtype=torch.int64)
    nodes, edges = Forests(sixty.graph).draw(none, [3, 2], WORD)
    assert len(nodes) == len(edges) == 0
    empty = Adjacency.from_edges(none, none, 4)
    nodes, edges = Forests(empty, NODE2VEC, 2.0, 2.0).draw(torch.tensor([2, 0]), [2, 1], WORD)
    assert nodes.tolist() == [2, 0, 2, 2, 0, 0, 2, 2, 0, 0]
    assert (edges == -1).all()
    ids, graph = forest.touched(empty, nodes, edges, Forests(empty).reverse())
    assert ids.tolist() == [0, 2]
    assert graph.n_edges == 0
