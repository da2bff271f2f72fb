# Everything a fresh machine needs: `make train`, `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install train test test-slow test-processes lint format wheel-check bench-synthetic bench-datasets bench-speed bench-samplers bench-sampling bench-decoupled bench-memory bench-depth bench-distillation bench-integer bench-popcount bench-dense bench-blas bench-startup bench-growth bench-accuracy bench-deep reproduce clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## create .venv with the pinned set and gnnscale, editable

$(STAMP): constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 10) <= sys.version_info[:2] <= (3, 12), "gnnscale needs Python 3.10 to 3.12; type make PYTHON=python3.11 ..."'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ogb,wandb,tensorboard,parquet,test]'
	touch $(STAMP)

train: install ## train SAINT + EGC on the embedded digits graph, offline
	$(BIN)/gnnscale train +sampler=saint +model=egc

test: install ## the default test suite, minutes; a process per core, each on one thread
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --maxprocesses=8 --dist worksteal

test-slow: install ## accuracy and scale on real data, tens of minutes (GNNSCALE_DATA=DIR)
	$(BIN)/python -m pytest -m slow --timeout=7200

test-processes: install ## what kills, sweeps, measures against peers and trains every preset, minutes
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m process -n auto --maxprocesses=8 --dist worksteal

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## format, fix what can be fixed, refresh the README's method table
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python scripts/readme_methods.py

wheel-check: install ## build the wheel and use it from a second environment
	scripts/wheel_check.sh $(BIN)/python

bench-synthetic: install ## SAINT + EGC on 10^6 nodes and 10^7 edges: epoch time, peak memory
	$(BIN)/gnnscale train experiment=saint_egc_synthetic

bench-datasets: install ## every node set at hand x five models, about 2 hours (GNNSCALE_DATA=DIR)
	scripts/bench_datasets.sh $(BIN)/gnnscale runs/datasets
	$(BIN)/gnnscale report runs/datasets --rows dataset --columns architecture --format markdown

bench-speed: install ## epochs beside DGL (and PyG: GNNSCALE_PYG_PYTHON=...), products beside a gather, about 40 minutes
	$(BIN)/python scripts/bench_speed.py $(BIN)/gnnscale runs/speed

reproduce: install ## run published tables, write docs/reproduction.md (GNNSCALE_DATA=DIR)
	scripts/reproduce.sh $(BIN)/gnnscale

bench-sampling: install ## every sampling method beside full batch, hours (GNNSCALE_DATA=DIR)
	scripts/bench_sampling.sh $(BIN)/gnnscale runs/sampling

bench-decoupled: install ## SGC, SIGN, GA-MLP, Correct & Smooth beside GCN and MLP (GNNSCALE_DATA=DIR)
	scripts/bench_decoupled.sh $(BIN)/gnnscale runs/decoupled
	$(BIN)/gnnscale report runs/decoupled

bench-memory: install ## peak memory of a training step over graph sizes and depths, minutes
	$(BIN)/python scripts/bench_memory.py $(BIN)/gnnscale runs/memory

bench-distillation: install ## every distillation loss, students GCN and MLP, hours (GNNSCALE_DATA=DIR)
	scripts/bench_distillation.sh $(BIN)/gnnscale runs/distillation

bench-depth: install ## activation memory of plain, reversible, tied and equilibrium networks over depth, minutes
	$(BIN)/python scripts/bench_depth.py

bench-integer: install ## integer inference beside float32 and bfloat16 (GNNSCALE_DATA=DIR)
	$(BIN)/python scripts/bench_integer.py $(BIN)/gnnscale runs/integer

bench-popcount: install ## products of signs by XNOR and popcount beside float products, a minute
	$(BIN)/python scripts/bench_popcount.py

bench-dense: install ## products of dense graphs by edge list and by matrix, minutes
	$(BIN)/python scripts/bench_dense.py

bench-blas: install ## dense products by torch and by OpenBLAS, a minute
	$(BIN)/python scripts/bench_blas.py

bench-startup: install ## from the command to the first step, and what its imports take, a minute
	$(BIN)/python scripts/bench_startup.py

bench-growth: install ## seconds per epoch and memory from 10^5 to 10^7 edges, a quarter of an hour
	$(BIN)/python scripts/bench_growth.py $(BIN)/gnnscale runs/growth

bench-accuracy: install ## seconds until a validation accuracy, beside DGL, hours (GNNSCALE_DATA=DIR)
	$(BIN)/python scripts/bench_accuracy.py $(BIN)/gnnscale runs/accuracy

bench-deep: install ## accuracy over depth on Cora; GA-MLPs on generated data, hours (GNNSCALE_DATA=DIR)
	scripts/bench_deep.sh $(BIN)/gnnscale runs/deep
	$(BIN)/gnnscale report runs/deep/depth
	$(BIN)/gnnscale report runs/deep/walks
	$(BIN)/gnnscale report runs/deep/communities

bench-samplers: install ## our samplers beside DGL's (and PyG's: GNNSCALE_PYG_PYTHON=...), interleaved, minutes
	$(BIN)/python scripts/bench_samplers.py

clean: ## remove the environment and build output (runs/ is kept)
	rm -rf $(VENV) build dist *.egg-info gnnscale.egg-info
