#!/usr/bin/env bash
# Build the wheel, install it into a second environment, and use it from an unrelated empty folder.
set -euo pipefail
python=$(realpath "${1:-.venv/bin/python}" 2>/dev/null || command -v "$1")
case "${1:-}" in */*) python="$PWD/$1" ;; esac
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --wheel --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" -m venv "$work/env"
install=("$work/env/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt")
"${install[@]}" torch==2.13.0
"${install[@]}" "$work"/dist/gnnscale-*.whl

mkdir "$work/empty"
cd "$work/empty"
"$work/env/bin/gnnscale" list >"$work/list.txt"
grep -q saint_mrw "$work/list.txt"
"$work/env/bin/gnnscale" train +sampler=saint +model=egc trainer.epochs=3 >"$work/train.txt"
run=$(tail -n 1 "$work/train.txt")
test -f "$run/seed-0/record.json"
"$work/env/bin/python" -c 'import gnnscale, sys; assert "/env/lib/" in gnnscale.__file__, gnnscale.__file__'
echo "wheel check: installed, listed and trained from $PWD ($run)"
