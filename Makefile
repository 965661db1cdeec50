# firstlight: `make train` and `make test` are all a new user needs.
# The first Python that runs and is of a version we support.
PYTHON ?= $(shell for python in python3 python3.12 python3.13 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && \
	echo $$python && break; done)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-extras train test test-all test-slow check format lint types layers board package clean

help: ## list every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv with the pinned dependencies

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || \
		{ echo "firstlight needs Python 3.11, 3.12 or 3.13: make setup PYTHON=/path/to/python3.12"; exit 2; }
	@echo "installing the pinned dependencies into .venv (once, a few minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup-extras: setup ## add every extra and what its tests need (lm-eval, datasets, wandb, mlflow, joblib, submitit, psycopg; 800 MB)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,lm-eval-tests,parquet,zstd,datasets,wandb,mlflow,joblib,submitit,postgresql]'

train: setup ## train the default experiment (ARGS="key=value ..." to change it)
	@$(BIN)/firstlight train $(ARGS)

test: setup ## run the tests: offline, about twenty minutes on two cores
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

test-all: setup ## run the long tests, too: more cases of the same kinds
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m 'not slow' $(ARGS)

test-slow: setup ## run the slow tests: the book's whole run, thousands of fuzzed cases
	@$(BIN)/python -m pytest -m slow $(ARGS)

check: format lint types layers test ## format, lint, types, layers, tests

format: setup ## format the code in place
	@$(BIN)/ruff format

lint: setup ## look for mistakes
	@$(BIN)/ruff check

types: setup ## check the types
	@$(BIN)/pyright

layers: setup ## check that imports point down only
	@$(BIN)/python -m pytest --quiet tests/test_layers.py

board: setup ## show all runs in TensorBoard (ARGS="port=6007 ..." for its settings)
	@$(BIN)/firstlight board $(ARGS)

package: setup ## build the wheel and the sdist into dist/
	@$(BIN)/python -m build --quiet

clean: ## remove what was built (runs in outputs/ stay)
	rm -rf .venv dist build .pytest_cache .ruff_cache
