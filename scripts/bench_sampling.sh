#!/usr/bin/env bash
# Every sampling method beside full batch of the same architecture, on five graphs; a second call goes on.
# usage: scripts/bench_sampling.sh GNNSCALE OUT [SET ...]     (GNNSCALE_DATA says where the files are)
#
# Budgets are fixed by the size N of the graph before anything runs: a step reads or makes at most a
# tenth of the nodes (histories and tables of propagated features are read beyond that, by row).
set -u
gnnscale=$1
out=$2
shift 2
test $# -gt 0 || set -- amazon_photo coauthor_cs squirrel synthetic arxiv_2023

one() {  # one SET SEEDS EPOCHS NAME WORDS...
    local set=$1 seeds=$2 epochs=$3 name=$4
    shift 4
    "$gnnscale" train "dataset=$set" $extra "seeds=$seeds" "trainer.epochs=$epochs" \
        architecture.depth=2 "$@" "hydra.run.dir=$out/$set/$name" 2>&1 |
        grep -v ' epoch ' | sed -u "s/^/$set $name: /"
}

gcn="architecture=gcn architecture.hidden=64 architecture.dropout=0.5 optimizer.lr=0.01 optimizer.weight_decay=5e-4"
lgcn="architecture=lgcn architecture.hidden=64 optimizer.lr=0.01 optimizer.weight_decay=5e-4"
sgc="architecture=sgc optimizer.lr=0.01 optimizer.weight_decay=5e-4"

for set in "$@"; do
    extra="dataset.download=false" seeds=3 full=100 epochs=100 eps=1e-4
    case $set in
    amazon_photo) n=7650 ;;
    coauthor_cs) n=18333 ;;
    squirrel) n=5201 ;;
    synthetic) n=200000 seeds=1 full=200 epochs=20 extra="dataset.nodes=200000 dataset.degree=20 dataset.train=0.5" ;;
    arxiv_2023) n=33868 seeds=1 full=200 epochs=20 ;;
    *) echo "$set: no budget is set for it; valid: amazon_photo coauthor_cs squirrel synthetic arxiv_2023"; exit 2 ;;
    esac
    ten=$((n / 10))
    tree=$((ten / 24))     # seeds of a tree of fan-outs 5 and 3: 1 + 5 + 15 nodes and spare
    run() { one "$set" "$seeds" "$epochs" "$@"; }
    one "$set" "$seeds" "$full" full $gcn
    run cluster $gcn sampler=cluster sampler.parts=20 sampler.batch_parts=2
    run cluster_random $gcn sampler=cluster sampler.parts=20 sampler.batch_parts=2 sampler.method=random
    run gas $gcn sampler=gas sampler.parts=20 sampler.batch_parts=2
    run gas_random $gcn sampler=gas sampler.parts=20 sampler.batch_parts=2 sampler.method=random
    run vrgcn $gcn sampler=vrgcn sampler.fanouts=2 sampler.batch_size=$((ten / 10))
    run neighbor $gcn sampler=neighbor 'sampler.fanouts=[3,5]' sampler.batch_size=$tree
    run neighbor2 $gcn sampler=neighbor 'sampler.fanouts=[2,2]' sampler.batch_size=$((ten / 10))
    run labor $gcn sampler=labor 'sampler.fanouts=[3,5]' sampler.batch_size=$tree
    run ladies $gcn sampler=ladies sampler.nodes=$((ten / 3)) sampler.batch_size=$((ten / 3))
    run fastgcn $gcn sampler=fastgcn sampler.nodes=$((ten / 3)) sampler.batch_size=$((ten / 3))
    run saint $gcn sampler=saint sampler.roots=$((ten / 5)) sampler.length=4
    run saint_node $gcn sampler=saint_node sampler.nodes=$ten
    run saint_edge $gcn sampler=saint_edge sampler.edges=$((ten / 2))
    run saint_mrw $gcn sampler=saint_mrw sampler.frontier=$((ten / 9)) sampler.budget=$ten
    run gttf $gcn sampler=gttf 'sampler.fanouts=[5,3]' sampler.batch_size=$tree
    run shadow_khop $gcn sampler=shadow_khop sampler.depth=2 sampler.budget=5 sampler.batch_size=$((ten / 31))
    run shadow $gcn sampler=shadow sampler.k=50 sampler.eps=$eps sampler.batch_size=$((ten / 50))
    one "$set" "$seeds" "$full" sgc_full $sgc
    run sgc_precompute $sgc sampler=precompute sampler.powers=2 sampler.keep=last sampler.batch_size=$ten
    run pprgo architecture=pprgo architecture.hidden=64 optimizer.lr=0.01 optimizer.weight_decay=5e-4 \
        sampler=ppr sampler.eps=$eps sampler.top_k=32 sampler.batch_size=$((ten / 32))
    one "$set" "$seeds" "$full" lgcn_full $lgcn
    one "$set" "$seeds" $((full / 2)) layerwise $lgcn recipe=layerwise
done
