# Every target sets up .venv by itself when it is missing or older than what it is made from.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-cluster check bench gpu-kit lock

help:
	@echo "make demo       train 3 arms x 3 seeds on embedded digits, write the report (2 to 5 minutes on 2 cores)"
	@echo "make test       the tests (under 4 minutes)      make test-slow   the slow ones"
	@echo "make test-cluster   those that kill Ray clusters"
	@echo "make check      formatting, lint, types          make bench       measure the training loop"
	@echo "make gpu-kit    what a CUDA machine without a network needs (experiments/README.md, On a GPU)"
	@echo "make setup      only .venv                       make lock        renew requirements.lock"

setup: .venv/ready

.venv/ready: pyproject.toml requirements.lock
	@echo "setting up .venv with $(PYTHON) (about a minute; PyTorch is large)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "Python 3.11 or 3.12 is needed, this is %d.%d: make PYTHON=python3.11 ..." % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
	@echo ".venv is ready"

demo: setup
	@$(BIN)/sngan sweep demo --wandb offline
	@$(BIN)/sngan report demo
	@echo "W&B runs (offline): $${SNGAN_RUNS:-runs}/demo/wandb; look with: $(BIN)/sngan dashboard demo"

test: setup
	@$(BIN)/pytest -n 2 --dist worksteal --durations 25 -m "not slow and not cluster and not gpu"

test-cluster: setup
	@$(BIN)/pytest --durations 25 -m cluster

test-slow: setup
	@$(BIN)/pytest -n 2 --dist worksteal --durations 25 -m slow

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright

bench: setup
	@$(BIN)/sngan bench

gpu-kit: setup
	@$(BIN)/python -m experiments.gpu.kit

lock:
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock
