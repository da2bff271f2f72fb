#!/usr/bin/env bash
# Models that see the graph before or after training only, beside GCN and MLP, on five graphs; a second call goes on.
# usage: scripts/bench_decoupled.sh GNNSCALE OUT [SET ...]     (GNNSCALE_DATA says where the files are; SEEDS=2 for a trial)
#
# The same data, splits, optimizer and epochs for all; validation alone selects: the epoch, and how to
# correct and smooth, from the same grid for every base.
set -u
gnnscale=$1
out=$2
shift 2
test $# -gt 0 || set -- cora citeseer coauthor_cs amazon_computers chameleon_filtered

one() {  # one NAME WORDS...: a composition of the present set
    local name=$1
    shift
    "$gnnscale" train "dataset=$set" dataset.download=false "seeds=${SEEDS:-$seeds}" trainer.epochs=200 \
        optimizer.lr=0.01 optimizer.weight_decay=5e-4 "$@" "hydra.run.dir=$out/$set/$name" 2>&1 |
        grep -v ' epoch ' | sed -u "s/^/$set $name: /"
}

grid() {  # Correct & Smooth behind the same words
    one "$@" recipe=correct_smooth recipe.stages.1.correct_alpha='[0.0,0.5,0.8,0.95]' \
        recipe.stages.1.correct_matrix='[DAD,AD]' recipe.stages.1.smooth_alpha='[0.0,0.5,0.8,0.95]' \
        recipe.stages.1.smooth_matrix='[DAD,AD]'
}

for set in "$@"; do
    case $set in
    cora | citeseer) seeds=10 drop=0.5 store=memory ;;
    chameleon_filtered) seeds=10 drop=0.0 store=memory ;;
    coauthor_cs | amazon_computers) seeds=3 drop=0.5 store=disk ;;   # 1.5 GB for coauthor_cs, made once
    *) echo "$set: no setting for it; valid: cora citeseer coauthor_cs amazon_computers chameleon_filtered"; exit 2 ;;
    esac
    wide="architecture.hidden=64 architecture.dropout=0.5 architecture.input_dropout=$drop"
    table="sampler.batch_size=null sampler.storage=$store"
    linear="architecture=mlp architecture.depth=1 architecture.input_dropout=$drop"
    mlp="architecture=mlp $wide"
    one linear $linear
    one mlp $mlp
    one gcn architecture=gcn $wide
    one sgc architecture=sgc sampler=precompute sampler.keep=last $table
    one sign architecture=sign sampler=precompute_sign sampler.powers=2 $table $wide
    test $store = disk ||   # 62 propagations of every feature
        one sign_ppr architecture=sign sampler=precompute_sign sampler.powers=2 sampler.diffusions=1 $table $wide
    one ga_mlp_s architecture=ga_mlp sampler=precompute $table $wide
    one ga_mlp_a architecture=ga_mlp sampler=precompute sampler.operator=none sampler.self_loops=false $table $wide
    grid cs_linear $linear
    grid cs_mlp $mlp
    grid cs_gcn architecture=gcn $wide
done
