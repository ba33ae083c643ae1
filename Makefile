# Everything a fresh machine needs is Python 3.11 or newer, git and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export OMP_WAIT_POLICY ?= passive

.PHONY: help quickstart reproduce test test-slurm test-slow test-gpu check docs tiny ledger exploit clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: .venv/.installed ## set up, then watch a tiny language model learn arithmetic (about 2 minutes)
	$(BIN)/python train.py

reproduce: .venv/.installed ## watch counterfactual credit work, and its inversion and its control fail: 20 runs, a report, a check (3 minutes on two cores)
	$(BIN)/python train.py sweep=ledger_reproduce hydra.launcher.jobs=2
	$(BIN)/python -m analysis report outputs/ledger_reproduce
	$(BIN)/python -m analysis area outputs/ledger_reproduce \
		--expect 'counterfactual_sharp > uniform' \
		--expect 'counterfactual_sharp > counterfactual_permuted_sharp' \
		--expect 'counterfactual_permuted_sharp !> uniform' \
		--expect 'counterfactual_inverted_sharp < uniform'

ledger: .venv/.installed ## make the shipped model of the ledger world again (a minute); docs/ledger.md
	$(BIN)/python train.py algo=sft model=ledger_scratch name=ledger_start tracking=none
	cp "$$(find outputs/ledger_start -type d -name policy | head -1)"/* src/mirrorpo/model/ledger/

exploit: .venv/.installed ## make the shipped model of the exploit world again (a minute); docs/exploit.md
	$(BIN)/python train.py algo=sft model=exploit_scratch name=exploit_start tracking=none
	cp "$$(find outputs/exploit_start -type d -name policy | head -1)"/* src/mirrorpo/model/exploit/

test: .venv/.dev ## set up, then run the tests (5 minutes on two cores)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not slurm"

test-slurm: .venv/.dev ## sweeps on a real SLURM that the tests start (apt-get install slurm-wlm slurmdbd mariadb-server; about 15 minutes)
	$(BIN)/python -m pytest -q -m slurm

test-slow: .venv/.dev ## the tests that take minutes each: kills at random instants, learning
	$(BIN)/python -m pytest -q -m "slow and not slurm"

test-gpu: .venv/.installed ## a GPU's table: what is right and how fast, each line with its bound (8 minutes at most; benchmarks/README.md)
	$(BIN)/python benchmarks/gpu.py

check: .venv/.dev ## lint, format, types, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: .venv/.docs ## build the site of docs/ into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

tiny: .venv/.installed ## make the shipped tiny model again (about 5 minutes); docs/tiny.md
	$(BIN)/python train.py algo=sft model=tiny_scratch name=tiny
	cp "$$(find outputs/tiny -type d -name policy | head -1)"/* src/mirrorpo/model/tiny/

clean: ## remove the environment; outputs stay
	rm -rf .venv

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %s: make PYTHON=python3.11 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv .venv  # Debian and Ubuntu: apt install python3-venv

.venv/.installed: .venv/bin/pip pyproject.toml setup.py constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/.dev: .venv/.installed
	$(PIP) --editable '.[dev]'
	@touch $@

.venv/.docs: .venv/.installed
	$(PIP) --editable '.[docs]'
	@touch $@
