#!/usr/bin/env bash
# Every sampling method beside full batch of the same architecture, on five graphs; a second call goes on.
# usage: scripts/bench_sampling.sh GNNSCALE OUT [SET ...]     (GNNSCALE_DATA says where the files are)
#
# Fixed by the numbers of nodes N and of training nodes before anything runs: a step reads or makes at
# most a tenth of the nodes (histories and tables of propagated features are read beyond that, by
# row), and every method takes about STEPS steps (full batch: 200), after which the epoch that is
# best on validation is scored (synthetic: of every fifth, since its passes take longer than its
# epochs). Splits hold 48 to 60 % of the nodes for training, which is what
# sampling is for.
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

STEPS=1000
gcn="architecture=gcn architecture.hidden=64 architecture.dropout=0.5 optimizer.lr=0.01 optimizer.weight_decay=5e-4"
lgcn="architecture=lgcn architecture.hidden=64 optimizer.lr=0.01 optimizer.weight_decay=5e-4"
sgc="architecture=sgc optimizer.lr=0.01 optimizer.weight_decay=5e-4"

for set in "$@"; do
    extra="dataset.download=false" seeds=3 eps=1e-4
    case $set in
    amazon_photo) n=7650 train=4590 extra="$extra dataset.split=shares" ;;
    coauthor_cs) n=18333 train=11000 extra="$extra dataset.split=shares" ;;
    squirrel) n=5201 train=2496 ;;
    synthetic) n=200000 train=100000 seeds=1 extra="dataset.nodes=200000 dataset.degree=20 dataset.train=0.5 trainer.evaluate_every=5" ;;
    arxiv_2023) n=33868 train=20321 seeds=1 ;;
    *) echo "$set: no budget is set for it; valid: amazon_photo coauthor_cs squirrel synthetic arxiv_2023"; exit 2 ;;
    esac
    ten=$((n / 10))
    tree=$((ten / 24))     # seeds of a tree of fan-outs 5 and 3: 1 + 5 + 15 nodes and spare
    few=$((ten / 10))
    whole() { one "$set" "$seeds" 200 "$@"; }
    tenths() { one "$set" "$seeds" $((STEPS / 10)) "$@"; }   # ten steps make an epoch
    seeded() {  # BATCH NAME WORDS...: so many training nodes per step
        local batch=$1 epochs
        shift
        epochs=$((STEPS * batch / train))
        one "$set" "$seeds" $((epochs > 5 ? epochs : 5)) "$1" "sampler.batch_size=$batch" "${@:2}"
    }
    whole full $gcn
    tenths cluster $gcn sampler=cluster sampler.parts=200 sampler.batch_parts=20
    tenths cluster_random $gcn sampler=cluster sampler.parts=200 sampler.batch_parts=20 sampler.method=random
    tenths cluster_coarse $gcn sampler=cluster sampler.parts=10 sampler.batch_parts=1
    tenths gas $gcn sampler=gas sampler.parts=200 sampler.batch_parts=20
    tenths gas_random $gcn sampler=gas sampler.parts=200 sampler.batch_parts=20 sampler.method=random
    seeded $few vrgcn $gcn sampler=vrgcn sampler.fanouts=2
    seeded $tree neighbor $gcn sampler=neighbor 'sampler.fanouts=[3,5]'
    seeded $few neighbor2 $gcn sampler=neighbor 'sampler.fanouts=[2,2]'
    seeded $tree labor $gcn sampler=labor 'sampler.fanouts=[3,5]'
    seeded $((ten / 3)) ladies $gcn sampler=ladies sampler.nodes=$((ten / 3))
    seeded $((ten / 3)) fastgcn $gcn sampler=fastgcn sampler.nodes=$((ten / 3))
    tenths saint $gcn sampler=saint sampler.roots=$((ten / 5)) sampler.length=4
    tenths saint_node $gcn sampler=saint_node sampler.nodes=$ten
    tenths saint_edge $gcn sampler=saint_edge sampler.edges=$((ten / 2))
    tenths saint_mrw $gcn sampler=saint_mrw sampler.frontier=$((ten / 9)) sampler.budget=$ten
    seeded $tree gttf $gcn sampler=gttf 'sampler.fanouts=[5,3]'
    seeded $((ten / 31)) shadow_khop $gcn sampler=shadow_khop sampler.depth=2 sampler.budget=5
    seeded $((ten / 50)) shadow $gcn sampler=shadow sampler.k=50 sampler.eps=$eps
    whole sgc_full $sgc
    seeded $ten sgc_precompute $sgc sampler=precompute sampler.powers=2 sampler.keep=last
    seeded $((ten / 32)) pprgo architecture=pprgo architecture.hidden=64 optimizer.lr=0.01 \
        optimizer.weight_decay=5e-4 sampler=ppr sampler.eps=$eps sampler.top_k=32
    whole lgcn_full $lgcn
    one "$set" "$seeds" 100 layerwise $lgcn recipe=layerwise
done
