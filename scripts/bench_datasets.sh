#!/bin/sh
# Every node set whose files are there x five models, one fixed protocol; a second call goes on.
# usage: scripts/bench_datasets.sh GNNSCALE OUT     (GNNSCALE_DATA says where the files are)
set -u
gnnscale=$1
out=$2
small="cora citeseer cora_ml cora_linqs citeseer_linqs cornell texas wisconsin chameleon
 chameleon_filtered squirrel_filtered actor amazon_photo minesweeper squirrel twitch
 amazon_computers"
large="dblp coauthor_cs arxiv_2023 nell dblp_prone deezer"
run() {
    "$gnnscale" train -m dataset="$1" dataset.download=false seeds="$2" \
        model=mlp,gcn,sage,gat,egc architecture.hidden=64 architecture.depth=2 \
        architecture.dropout=0.5 optimizer.lr=0.01 optimizer.weight_decay=5e-4 \
        trainer.epochs=200 hydra.sweep.dir="$out/$1" 2>&1 | grep -v ' epoch ' | sed "s/^/$1: /"
}
for set in $small; do run "$set" 10; done
for set in $large; do run "$set" 3; done
