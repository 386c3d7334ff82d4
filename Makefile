# Everything a newcomer or CI types. Needs Python 3.11+ and make; no root, no GPU, no model hub.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PINS   := .ci/constraints.txt

.PHONY: setup demo test cover lint type bench docs audit clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, then run the main job on real text (about 5 minutes)"
	@echo "make test   set up, then pass all tests"
	@echo "make cover  the same, and which lines they reach"
	@echo "make lint   style, types and layers"
	@echo "make bench  ours against the peers, in one run"
	@echo "make audit  known vulnerabilities of the pinned packages (asks the package index; fails where it cannot tell)"
	@echo "make docs   check that the documentation's commands and links hold"

setup: $(STAMP)

$(STAMP): pyproject.toml $(PINS)
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(PINS) "$(TORCH)" -e ".[all]"
	touch $(STAMP)

demo: setup
	$(BIN)/kxbatch demo

test: setup
	$(BIN)/python -m pytest --durations=10

cover: setup
	$(BIN)/python -m pytest --cov=kxbatch --cov-report=term:skip-covered

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(MAKE) type

type: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m tests.bench.table

docs: setup
	$(BIN)/python -m pytest tests/docs -q

# In an environment of its own: the auditor's dependencies are none of ours.
audit:
	test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install --quiet pip-audit; }
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip -r $(PINS)

clean:
	rm -rf $(VENV) $(VENV)-audit out .pytest_cache .mypy_cache .ruff_cache .hypothesis
