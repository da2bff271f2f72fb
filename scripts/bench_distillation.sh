#!/usr/bin/env bash
# Every distillation loss, a GAT teacher and students GCN and MLP (logit and G-CRD also EGC and SIGN), on
# three graphs; `arxiv_2023` is the same on a split by time. A second call goes on.
# usage: scripts/bench_distillation.sh GNNSCALE OUT [SET ...]     (GNNSCALE_DATA says where the files are; SEEDS=2 for a trial)
#
# The same data, splits, optimizer and epochs for all; the student's own validation score picks the
# epoch. A loss with a weight is run with three (the grid its papers state, or that of their kind);
# the one with the best mean validation score is to be read, so no test label chooses anything:
#   scripts/distillation_table.py OUT
set -u
gnnscale=$1
out=$2
shift 2
test $# -gt 0 || set -- cora citeseer amazon_photo

one() {  # one NAME WORDS...: a composition of the present set
    local name=$1
    shift
    "$gnnscale" train "dataset=$set" dataset.download=false $split "seeds=$seeds" trainer.epochs=200 \
        optimizer.lr=0.01 "optimizer.weight_decay=$decay" "$@" "hydra.run.dir=$out/$set/$name" 2>&1 |
        grep -v ' epoch ' | sed -u "s/^/$set $name: /"
}

taught() {  # taught NAME TERM WORDS...: the student with a teacher
    local name=$1 term=$2
    shift 2
    one "$name" $student recipe=distill teacher.architecture=gat "$teacher" "distillation=$term" "$@"
}

logit_and_gcrd() {  # logit_and_gcrd STUDENT
    for alpha in $alphas; do
        taught "$1-logit-$alpha" logit "distillation.logit.alpha=$alpha" distillation.logit.temperature=2
    done
    for weight in $small; do
        taught "$1-gcrd-$weight" gcrd "distillation.gcrd.weight=$weight" "distillation.gcrd.samples=$samples"
    done
}

for set in "$@"; do
    split="" decay=5e-4 samples=16384 alphas="0.5 0.8 0.9" small="0.01 0.1 0.5" large="100 1000 10000" few=3
    seeds=${SEEDS:-10}
    case $set in
    cora | citeseer) ;;
    amazon_photo | amazon_computers) split="dataset.split=per_class" ;;
    arxiv_2023) decay=0 samples=4096 alphas=0.8 small=0.1 large=1000 few=1 seeds=${SEEDS:-1} ;;
    *) echo "$set: no setting for it; valid: cora citeseer amazon_photo amazon_computers arxiv_2023"; exit 2 ;;
    esac
    attention='architecture.hidden=64 architecture.heads=8 architecture.dropout=0.6 architecture.attention_dropout=0.6 architecture.act=elu optimizer.lr=0.005'
    teacher="teacher.overrides=[\"${attention// /\",\"}\",\"optimizer.weight_decay=$decay\",\"trainer.epochs=200\"]"
    one gat architecture=gat $attention
    for name in gcn mlp; do
        student="architecture=$name architecture.hidden=64 architecture.dropout=0.5"
        one "$name" $student
        logit_and_gcrd "$name"
        taught "$name-soft_labels" soft_labels
        taught "$name-cpf" cpf
        for weight in $large; do
            for term in fitnet attention lsp gsp; do
                taught "$name-$term-$weight" $term "distillation.$term.weight=$weight"
            done
        done
        for weight in $small; do
            taught "$name-logit_gcrd-$weight" '[logit,gcrd]' distillation.logit.temperature=2 \
                "distillation.gcrd.weight=$weight" "distillation.gcrd.samples=$samples"
        done
    done
    seeds=$((seeds < few ? seeds : few))
    for name in egc sign; do
        student="architecture=$name architecture.hidden=64 architecture.dropout=0.5"
        test "$name" = egc || student+=" sampler=precompute_sign"
        one "$name" $student
        logit_and_gcrd "$name"
    done
done
