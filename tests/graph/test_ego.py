from collections import deque
from itertools import pairwise

import numpy as np
import pytest
import torch

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph import ego, walk
from gnnscale.graph.induce import isolate, scratch
from gnnscale.graph.push import Ranks

WORD = np.uint64(77)


def parts(starts, members):
    return [members[a:b].tolist() for a, b in pairwise(starts)]


def stream(word, *keys):
    for key in keys:
        word = np.uint64(walk.draw(word, key))
    return word


def row(adj, v):
    return adj.indices[adj.indptr[v] : adj.indptr[v + 1]].tolist()


@pytest.mark.parametrize("budget", [-1, 1, 3, 100])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_khop_is_the_plain_algorithm(depth, budget, six, sixty):
    for adj in (six, sixty.graph):
        roots = torch.tensor([0, 5, 2, 2])
        expected = []
        for root in roots.tolist():
            found, level = [root], [root]
            for hop in range(depth):
                new = []
                for v in level:
                    neighbours = row(adj, v)
                    if 0 <= budget < len(neighbours):
                        own = stream(WORD, root, hop, v)
                        neighbours = [
                            neighbours[walk.below(own, e, len(neighbours))] for e in range(budget)
                        ]
                    for u in neighbours:
                        if u not in found:
                            found.append(u)
                            new.append(u)
                level = new
            expected.append(found)
        assert parts(*ego.khop(adj, roots, depth, budget, WORD)) == expected
    assert (scratch(60) == -1).all()


def test_draws_of_a_budget_are_uniform_with_replacement():
    d, budget, draws = 30, 7, 4000
    star = Adjacency.from_edges(torch.arange(1, d + 1), torch.zeros(d, dtype=torch.int64), d + 1)
    seen, sizes = np.zeros(d + 1), []
    for k in range(draws):
        _, members = ego.khop(star, torch.tensor([0]), 1, budget, np.uint64(k))
        seen[members.numpy()] += 1
        sizes.append(len(members))
    p = 1 - (1 - 1 / d) ** budget
    error = (draws * p * (1 - p)) ** 0.5
    assert (np.abs(seen[1:] - draws * p) < 4.5 * error).all()
    assert seen[0] == draws
    assert min(sizes) < budget + 1 == max(sizes)  # repeated draws are one node


def ranks(*rows):
    """Rows of (node, score) as ``push`` gives them."""
    sizes = torch.tensor([0, *(len(row) for row in rows)])
    flat = [pair for row in rows for pair in row]
    nodes = torch.tensor([node for node, _ in flat], dtype=torch.int32)
    scores = torch.tensor([score for _, score in flat], dtype=torch.float64)
    return Ranks(sizes.cumsum(0), nodes, scores, *torch.zeros(2, len(rows)))


def test_the_threshold_refers_to_the_second_highest_score():
    scored = ranks([(7, 0.875), (3, 0.25), (1, 0.125), (4, 0.03125), (9, 0.03)])
    roots = torch.tensor([7])
    assert parts(*ego.best(roots, scored, 5, 0.125)) == [[7, 3, 1, 4]]
    assert parts(*ego.best(roots, scored, 5, 0.0)) == [[7, 3, 1, 4, 9]]
    assert parts(*ego.best(roots, scored, 5, 1.0)) == [[7, 3]]
    # the root is there whatever its score, and counts
    for root, kept in ((4, [4, 7, 3]), (3, [3, 7]), (6, [6, 7, 3])):
        assert parts(*ego.best(torch.tensor([root]), scored, 5, 0.6)) == [kept]
    full = parts(*ego.best(torch.tensor([6]), scored, 5, 0.0))
    assert full == [[6, 7, 3, 1, 4]]
    some = ranks([(2, 1.0)], [], [(7, 0.5), (2, 0.25)])
    assert parts(*ego.best(torch.tensor([2, 4, 2]), some, 2, 0.5)) == [[2], [4], [2, 7]]
    assert parts(*ego.best(torch.tensor([2, 4, 7]), some, 1, 0.5)) == [[2], [4], [7]]


def test_distances_are_those_of_breadth_first_search(sixty):
    path = Adjacency.from_edges(torch.arange(1, 9), torch.arange(8), 9)
    starts = torch.tensor([0, 9])
    assert ego.distances(path, starts).tolist() == [1, 2, 3, 4, 5, 6, 0, 0, 0]
    sets = ego.khop(sixty.graph, torch.arange(60), 3, 2, WORD)
    blocks = isolate(sixty.graph, *sets)
    codes = ego.distances(blocks, sets[0])
    for a, b in pairwise(sets[0].tolist()):
        found, queue = {a: 0}, deque([a])
        while queue:
            v = queue.popleft()
            for u in row(blocks, v):
                if u not in found:
                    found[u] = found[v] + 1
                    queue.append(u)
        expected = [found[v] + 1 if found.get(v, 9) <= ego.FARTHEST else 0 for v in range(a, b)]
        assert codes[a:b].tolist() == expected


def test_no_roots(sixty):
    starts, members = ego.khop(sixty.graph, torch.empty(0, dtype=torch.int64), 2, 3, WORD)
    assert starts.tolist() == [0]
    blocks = isolate(sixty.graph, starts, members)
    assert (blocks.n_dst, blocks.n_edges) == (0, 0)
    assert len(ego.distances(blocks, starts)) == 0
