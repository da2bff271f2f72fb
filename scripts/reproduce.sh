#!/bin/sh
# Every published row that this machine class can run, then docs/reproduction.md; goes on when called again.
# usage: scripts/reproduce.sh GNNSCALE [OUT [BUDGET_S]]     (GNNSCALE_DATA says where the files are)
# BUDGET_S: rows that are estimated to cost more seconds, or an unknown number, are left out.
set -u
gnnscale=$1
out=${2:-runs/reproduce}
budget=${3:-7200}
"$gnnscale" reproduce table=all out="$out" budget="$budget" jobs="${JOBS:-1}"
code=$?
[ "$code" -ge 2 ] && exit "$code"
"$gnnscale" reproduce --document docs/reproduction.md out="$out" || exit
exit "$code"
