#!/usr/bin/env bash
# Accuracy over depth on Cora: plain, reversible, tied, equilibrium; then what GA-MLPs can and can't count or
# find on generated data. A second call goes on.
# usage: scripts/bench_deep.sh GNNSCALE OUT [depth] [walks] [communities]   (SEEDS=2 for a trial)
set -u
gnnscale=$1
out=$2
shift 2
test $# -gt 0 || set -- depth walks communities

one() {  # one NAME WORDS...
    local name=$1
    shift
    "$gnnscale" train "$@" "hydra.run.dir=$out/$name" 2>&1 | grep -v ' epoch ' | sed -u "s|^|$name: |"
}

depth() {
    for layers in 8 64 256; do
        for kind in plain reversible tied; do
            one "depth/$kind-$layers" "experiment=deep_${kind}_cora" dataset.download=false "architecture.depth=$layers" "seeds=${SEEDS:-5}"
        done
    done
    one depth/deq experiment=deep_deq_cora dataset.download=false "seeds=${SEEDS:-5}"
}

walks() {
    one walks/ga_mlp experiment=ga_mlp_walks "seeds=${SEEDS:-10}"
    one walks/ga_mlp_plus experiment=ga_mlp_walks_plus "seeds=${SEEDS:-10}"
    one walks/gin experiment=gin_walks "seeds=${SEEDS:-10}"
}

communities() {
    for ranks in "4.5 1.5" "4.73 1.27" "5.0 1.0" "5.5 0.5" "6.0 0.0"; do
        set -- $ranks
        for model in ga_mlp_sbm ga_mlp_a_sbm; do
            one "communities/$model-$1" "experiment=$model" "dataset.within=$1" "dataset.between=$2" "seeds=${SEEDS:-3}"
        done
    done
}

for part in "$@"; do
    case $part in
    depth | walks | communities) "$part" ;;
    *) echo "$part: no such part; valid: depth walks communities"; exit 2 ;;
    esac
done
