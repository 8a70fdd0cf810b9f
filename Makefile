# Two commands do everything:  make rank-cv ENV=cartpole   and   make test
# Everything is installed into .venv, at the versions of constraints.txt.

PYTHON ?= python3
ENV ?= cartpole
ARGS ?=
# Processes that share the tests, file by file: what a file sets up once (a whole benchmark, say) is set up once.
WORKERS ?= 2
BIN := .venv/bin
# Two spinning OpenMP threads can be a hundred times slower than one on a busy machine.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install rank-cv ui test test-slow check format clean

help:
	@echo "make rank-cv ENV=cartpole [ARGS='--repeats 5']  choose the rank by cross-validation (minutes)"
	@echo "make ui                                         look at all runs in MLflow, http://127.0.0.1:5000"
	@echo "make test                                       run the tests (make test-slow: also the slow ones)"
	@echo "make check                                      lint, format check, types"

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) is too old; give Python 3.11 or later: make PYTHON=python3.11 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

rank-cv: .venv/installed
	$(BIN)/python sweeps/rank_cv.py --env $(ENV) $(ARGS)

ui: .venv/installed
	@echo "open http://127.0.0.1:5000/#/experiments/1/runs?compareRunsMode=CHART"
	$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1 --workers 1

test: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-slow: .venv/installed
	$(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
