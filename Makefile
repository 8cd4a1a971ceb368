# Everything runs in .venv; the first target that needs it makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-watching test-computing chaos check fix bench gpu-check wheel setup clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Make .venv with the pinned dependencies

$(READY): pyproject.toml constraints.txt setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "igascale needs Python 3.11 or newer; make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[deepspeed,tensorboard,torchjd,data,report,dev]'
	touch $@

demo: $(READY)  ## Generate, pre-train, train three ways under DeepSpeed, evaluate, merge, report; one table (about 4 minutes)
	$(BIN)/igascale demo --out runs/demo --fresh

# Tests that mostly wait for processes to start, to be lost and to be gone run beside those that compute: nothing is shared between
# them but the processor, and their patience is meant for busy machines. Each line says whose it is.
WATCHING := tests/chaos tests/hosts tests/launchers tests/supervision

test: $(READY)  ## All tests but those that need a GPU, in two halves at the same time
	+$(MAKE) --no-print-directory --keep-going --jobs=2 test-watching test-computing

test-watching test-computing: SHELL := /bin/bash
test-watching test-computing: .SHELLFLAGS := -o pipefail -c

test-watching: $(READY)
	$(BIN)/python -m pytest -m "not gpu" $(WATCHING) 2>&1 | sed -u 's/^/watching: /'

test-computing: $(READY)
	$(BIN)/python -m pytest -m "not gpu" tests $(addprefix --ignore=,$(WATCHING)) 2>&1 | sed -u 's/^/computing: /'
	$(BIN)/python -m pytest --doctest-modules igascale 2>&1 | sed -u 's/^/computing: /'

chaos: $(READY)  ## The fault campaign: 100 disturbed runs, each resumed and compared bit for bit (about an hour; two hosts need root)
	$(BIN)/python tests/chaos/campaign.py --runs 100 --seed 0 --out runs/chaos.json

check: $(READY)  ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)  ## Format and mend what can be mended automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench gpu-check: export TQDM_DISABLE = 1
bench gpu-check: export PYTHONWARNINGS = ignore::FutureWarning
bench: $(READY)  ## Ratios measured in one run; JSON in benchmarks/results
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.capture
	$(BIN)/python -m benchmarks.projection
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.precision
	$(BIN)/python -m benchmarks.hooks
	$(BIN)/python -m benchmarks.launching
	$(BIN)/python -m benchmarks.checkpointing
	$(BIN)/python -m benchmarks.loading
	$(BIN)/python -m benchmarks.factory

gpu-check: $(READY)  ## GPU tests and a 7B-shape step, where there is a CUDA GPU
	$(BIN)/python -m benchmarks.gpu_check

wheel: $(READY)  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

clean:  ## Remove what the other targets made, except runs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
