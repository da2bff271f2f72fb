"""PyG's samplers for bench_samplers.py, in PyG's own environment: a line in, a line out.

usage: python pyg_samplers.py GRAPH.npz SEEDS FANOUT,FANOUT,.. ROOTS LENGTH NODES PARTS AT_ONCE

Says first which samplers there are. Asked for {"name", "gather", "batches", "number"}, answers with
{"s", "nodes", "batches"}: seconds, rows of all inputs, and how many batches that were.
"""

import json
import sys
import time

import numpy as np
import torch
from torch_geometric import loader
from torch_geometric.data import Data


def contestants(data, train):
    """Loaders by name, each a function of nothing."""
    seeds, fanouts, roots, length, nodes, parts, at_once = sys.argv[2:]
    fan, seeds, length = [int(k) for k in fanouts.split(",")], int(seeds), int(length)
    made = {
        f"NeighborLoader {fanouts}": lambda: loader.NeighborLoader(
            data, fan, input_nodes=train, batch_size=seeds, shuffle=True),
        f"GraphSAINTRandomWalkSampler {roots} x {length}":
            lambda: loader.GraphSAINTRandomWalkSampler(data, int(roots), length, num_steps=5),
        f"GraphSAINTNodeSampler {nodes}":
            lambda: loader.GraphSAINTNodeSampler(data, int(nodes), num_steps=5),
        f"ShaDowKHopSampler {len(fan) - 1} hops, {fan[0]}": lambda: loader.ShaDowKHopSampler(
            data, len(fan) - 1, fan[0], node_idx=train, batch_size=seeds, shuffle=True),
    }  # fmt: skip
    try:
        divided = loader.ClusterData(data, int(parts), log=False)
    except Exception as error:  # torch-sparse can be built without METIS
        print(f"PyG, ClusterData: {error}", file=sys.stderr)
    else:
        made[f"ClusterLoader {at_once} of {parts}"] = lambda: loader.ClusterLoader(
            divided, batch_size=int(at_once), shuffle=True
        )
    return made


def main():
    """Answer until the pipe closes."""
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    stored = {name: torch.from_numpy(value) for name, value in np.load(sys.argv[1]).items()}
    indptr, indices = stored["indptr"], stored["indices"].long()
    nodes = len(indptr) - 1
    edges = torch.stack([indices, torch.arange(nodes).repeat_interleave(indptr.diff())])
    made = []
    for x in (stored["x"][:, :1].contiguous(), stored["x"]):
        data = Data(x=x, y=torch.zeros(nodes), edge_index=edges, num_nodes=nodes)
        made.append({name: make() for name, make in contestants(data, stored["train"]).items()})
    print(json.dumps(list(made[0])), file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        torch.manual_seed(asked["number"])
        source, total, batches = iter(made[asked["gather"]][asked["name"]]), 0, 0
        start = time.perf_counter()
        for batch in source:
            total, batches = total + batch.num_nodes, batches + 1
            if batches == asked["batches"]:
                break
        told = {"s": time.perf_counter() - start, "nodes": total, "batches": batches}
        print(json.dumps(told), file=out, flush=True)


if __name__ == "__main__":
    main()
