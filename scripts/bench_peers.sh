#!/usr/bin/env bash
# Training epochs of GCN, SAGE and GAT against DGL's and PyG's layers, in turn, on a synthetic graph of
# about 170,000 nodes and 2.4 million directed edges; first the same composition against itself.
# PyG takes part if GNNSCALE_PYG_PYTHON names an interpreter that has it (docs/measuring.md).
set -euo pipefail
gnnscale=${1:-gnnscale}
graph=(dataset=synthetic dataset.nodes=169343 dataset.degree=14 dataset.features=128 dataset.classes=40)
model=(architecture.hidden=256 architecture.depth=3 architecture.norm=batch architecture.dropout=0.5)
rules=('bench.workloads=[epoch]' 'bench.scopes=[end2end]' bench.requests=${REQUESTS:-10} bench.seconds=0
  bench.warmup=2 bench.limit_s=1800 bench.memory=false bench.roofline=false)

"$gnnscale" bench dataset=cora architecture=gcn 'bench.workloads=[full,epoch]' bench.memory=false --vs
peers=(dgl)
test -z "${GNNSCALE_PYG_PYTHON:-}" || peers+=(pyg)
for peer in "${peers[@]}"; do
  for name in gcn sage; do
    "$gnnscale" bench "${graph[@]}" architecture=$name "${model[@]}" "${rules[@]}" peer="$peer"
  done
  "$gnnscale" bench "${graph[@]}" architecture=gat "${model[@]}" architecture.heads=4 \
    architecture.attention_dropout=0 "${rules[@]}" peer="$peer"
done
