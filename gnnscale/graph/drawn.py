"""Bipartite blocks of drawn in-edges, compiled: what layer-by-layer samplers are made of.

A block is (starts, columns, edges, sources, scale): row bounds [n + 1], local sources and global
edge numbers [E], the node behind each local source, and what multiplies an edge so that the sum
over drawn edges estimates the sum over all. The targets are the first sources; the others stand in
the order of first appearance. A self-loop, if asked for, stands last in its row with edge -1 and
is never scaled. ``local`` [N] int32 is all -1 before and after.
"""

import numpy as np

from gnnscale.core.compiled import compiled
from gnnscale.graph.walk import below, draw, unit


@compiled()
def choose(stream, d, k, replace, taken, edges):
    """Fill ``edges`` [k] with numbers in [0, d), all subsets alike (Floyd's algorithm).

    ``taken`` [>= d] is all false before and after.
    """
    for i in range(k):
        if replace:
            edges[i] = below(stream, i, d)
            continue
        top = d - k + i
        t = below(stream, i, top + 1)
        edges[i] = top if taken[t] else t
        taken[edges[i]] = True
    if not replace:
        for i in range(k):
            taken[edges[i]] = False


@compiled()
def relabel(indices, targets, starts, edges, local):
    """(columns, sources) of the rows of ``targets``, whose edges are given; loops are -1."""
    n = len(targets)
    for i in range(n):
        local[targets[i]] = i
    columns = np.empty(len(edges), np.int32)
    sources = np.empty(n + len(edges), np.int64)
    sources[:n] = targets
    for e in range(len(edges)):  # apart from the next loop, so that cache misses overlap
        if edges[e] >= 0:
            columns[e] = indices[edges[e]]
    found = n
    for i in range(n):
        for e in range(starts[i], starts[i + 1]):
            if edges[e] < 0:
                columns[e] = i
                continue
            j = columns[e]
            if local[j] < 0:
                local[j] = found
                sources[found] = j
                found += 1
            columns[e] = local[j]
    for i in range(found):
        local[sources[i]] = -1
    return columns, sources[:found].copy()


@compiled()
def neighbors(indptr, indices, targets, fanout, replace, loop, word, local):
    """``fanout`` in-edges of every target, all subsets of them alike; -1: all.

    ``scale`` is degree / drawn neighbours: per row, or with loops per edge, 1 for the loops.
    """
    n, widest = len(targets), 0
    starts = np.zeros(n + 1, np.int64)
    for i in range(n):
        d = indptr[targets[i] + 1] - indptr[targets[i]]
        k = d if fanout < 0 or (d < fanout and not replace) or d == 0 else fanout
        starts[i + 1] = starts[i] + k + loop
        widest = max(widest, d)
    edges = np.empty(starts[n], np.int64)
    taken = np.zeros(widest, np.bool_)
    scale = np.ones(starts[n] if loop else n)
    for i in range(n):
        first = indptr[targets[i]]
        d = indptr[targets[i] + 1] - first
        at, end = starts[i], starts[i + 1] - loop
        if fanout < 0 or d == 0 or (d <= fanout and not replace):
            for e in range(end - at):
                edges[at + e] = first + e
        else:
            choose(draw(word, targets[i]), d, end - at, replace, taken, edges[at:end])
            edges[at:end] += first
            if loop:
                scale[at:end] = d / (end - at)
            else:
                scale[i] = d / (end - at)
        if loop:
            edges[end] = -1
    columns, sources = relabel(indices, targets, starts, edges, local)
    return starts, columns, edges, sources, scale


# -- nodes drawn for a whole layer ----------------------------------------------------------------


@compiled()
def squares(indptr, indices, targets, src, dst, weight, without, local):
    """The in-neighbours v of ``targets`` and, for each, sum over targets i of L_iv^2.

    L_iv = dst_i weight_iv src_v, empty arrays standing for ones; ``without``: targets are no
    candidates. Returns (nodes [C], sums [C]), nodes in the order of first appearance.
    """
    total = 0
    for i in range(len(targets)):
        total += indptr[targets[i] + 1] - indptr[targets[i]]
        if without:
            local[targets[i]] = -2
    nodes = np.empty(min(total, len(local)), np.int64)
    sums = np.zeros(len(nodes))
    found = 0
    for i in range(len(targets)):
        t = targets[i]
        for e in range(indptr[t], indptr[t + 1]):
            j = indices[e]
            k = local[j]
            if k == -2:
                continue
            if k < 0:
                k = found
                local[j] = k
                nodes[k] = j
                found += 1
            entry = 1.0
            if len(src):
                entry *= src[j]
            if len(dst):
                entry *= dst[t]
            if len(weight):
                entry *= weight[e]
            sums[k] += entry * entry
    for k in range(found):
        local[nodes[k]] = -1
    for i in range(len(targets)):
        local[targets[i]] = -1
    return nodes[:found].copy(), sums[:found].copy()


@compiled()
def races(mass, names, word):
    """Exponential arrival times -log(u_v) / mass_v: the s earliest are s draws without replacement.

    Efraimidis & Spirakis, Inf. Process. Lett. 97 (2006). ``names`` [C]: the node of each mass.
    """
    out = np.empty(len(mass))
    for k in range(len(mass)):
        u = 1.0 - unit(word, names[k])  # in (0, 1]
        out[k] = -np.log(u) / mass[k] if mass[k] > 0 else np.inf
    return out


@compiled()
def units(word, n):
    """The first ``n`` numbers of a stream."""
    out = np.empty(n)
    for i in range(n):
        out[i] = unit(word, i)
    return out


@compiled()
def among(indptr, indices, targets, nodes, gain, own, loop, local):
    """The in-edges of ``targets`` that come from drawn nodes, with the gains of these as scale.

    Args:
        nodes, gain: [U] distinct drawn nodes and what multiplies their edges.
        own: [n] the same for the targets, where they are not drawn; 0: their edges are left out.
    """
    n, most = len(targets), 0
    weight = np.empty(n + len(nodes))
    for i in range(n):
        local[targets[i]] = i
        weight[i] = own[i]
        most += indptr[targets[i] + 1] - indptr[targets[i]] + loop
    for k in range(len(nodes)):
        i = local[nodes[k]]
        if i < 0:
            local[nodes[k]] = i = n + k
        weight[i] = gain[k]
    starts = np.zeros(n + 1, np.int64)
    edges, scale = np.empty(most, np.int64), np.empty(most)
    at = 0
    for i in range(n):
        for e in range(indptr[targets[i]], indptr[targets[i] + 1]):
            k = local[indices[e]]
            if k >= 0 and weight[k] > 0:
                edges[at], scale[at] = e, weight[k]
                at += 1
        if loop:
            edges[at], scale[at] = -1, 1.0
            at += 1
        starts[i + 1] = at
    for i in range(n):
        local[targets[i]] = -1
    for k in range(len(nodes)):
        local[nodes[k]] = -1
    edges = edges[:at].copy()
    columns, sources = relabel(indices, targets, starts, edges, local)
    return starts, columns, edges, sources, scale[:at].copy()
