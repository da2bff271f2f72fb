#!/usr/bin/env bash
# Every distillation loss, a GAT teacher and students GCN and MLP, on three graphs; a second call goes on.
# usage: scripts/bench_distillation.sh GNNSCALE OUT [SET ...]     (GNNSCALE_DATA says where the files are; SEEDS=2 for a trial)
#
# The same data, splits, optimizer and epochs for all; the student's own validation score picks the
# epoch. A loss with a weight is run with three (the grid its papers state, or that of their kind);
# the one with the best mean validation score is to be read, so no test label chooses anything:
#   gnnscale report OUT/SET --show valid,test
set -u
gnnscale=$1
out=$2
shift 2
test $# -gt 0 || set -- cora citeseer amazon_photo

one() {  # one NAME WORDS...: a composition of the present set
    local name=$1
    shift
    "$gnnscale" train "dataset=$set" dataset.download=false $split "seeds=${SEEDS:-10}" trainer.epochs=200 \
        optimizer.lr=0.01 optimizer.weight_decay=5e-4 architecture.dropout=0.5 architecture.hidden=64 \
        "$@" "hydra.run.dir=$out/$set/$name" 2>&1 | grep -v ' epoch ' | sed -u "s/^/$set $name: /"
}

taught() {  # taught NAME TERM WORDS...: the same with a teacher
    local name=$1 term=$2
    shift 2
    one "$name" "architecture=$student" recipe=distill teacher.architecture=gat "$teacher" \
        "distillation=$term" "$@"
}

teacher='teacher.overrides=["architecture.hidden=64","architecture.heads=8","architecture.dropout=0.6","architecture.attention_dropout=0.6","architecture.act=elu","optimizer.lr=0.005","optimizer.weight_decay=5e-4","trainer.epochs=200"]'
for set in "$@"; do
    case $set in
    cora | citeseer) split="" ;;
    amazon_photo | amazon_computers) split="dataset.split=per_class" ;;
    *) echo "$set: no setting for it; valid: cora citeseer amazon_photo amazon_computers"; exit 2 ;;
    esac
    one gat architecture=gat architecture.heads=8 architecture.dropout=0.6 architecture.attention_dropout=0.6 \
        architecture.act=elu optimizer.lr=0.005
    for student in gcn mlp; do
        one "$student" "architecture=$student"
        for alpha in 0.5 0.8 0.9; do
            taught "$student-logit-$alpha" logit "distillation.logit.alpha=$alpha" distillation.logit.temperature=2
        done
        taught "$student-soft_labels" soft_labels
        taught "$student-cpf" cpf
        for weight in 100 1000 10000; do
            for term in fitnet attention lsp gsp; do
                taught "$student-$term-$weight" $term "distillation.$term.weight=$weight"
            done
        done
        for weight in 0.01 0.1 0.5; do
            taught "$student-gcrd-$weight" gcrd "distillation.gcrd.weight=$weight"
            taught "$student-logit-gcrd-$weight" '[logit,gcrd]' distillation.logit.temperature=2 \
                "distillation.gcrd.weight=$weight"
        done
    done
done
