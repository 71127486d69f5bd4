# Needs make and Python 3.11 or later; everything else goes into .venv, which each target makes for itself.
#
#   make demo    the main job: index real files, kill the worker half-way, recover, prove the totals
#   make test    all but what `make check` tests, half of it with cached instances and half of it without
#   make test-crossed  every test with cached instances and again without, in every combination of style and store
#   make test-postgres  everything with workers on PostgreSQL, of which `make test` runs a part there
#   make torture the long batteries and their ledger; within an hour
#   make bench   all workloads beside the limits of the machine; ARGS=--slow for the large sizes too
#   make check   lint, format, types, and the tests of the code's own text: the rules of the house, and types for users
#   make format  rewrite the code in the one format
#   make clean   remove .venv and all caches
#
# Choose another interpreter with `make PYTHON=/path/to/python3.12 ...`.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test test-crossed test-postgres torture bench check format clean

# The first of these that is 3.11 or later. `?=` and `:=` so that it is looked for once, and only if nobody has chosen.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
endif

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Four at a time on two cores: tests also wait; more than that starve those that start processes.
PYTEST := $(BIN)/python -m pytest -q
PARALLEL := -n 4 --dist worksteal
# Where workers run on a store of their own.
WITH_WORKERS := tests/client tests/entities tests/jobs tests/limits tests/samples tests/schedules tests/worker
# What they read is the code itself.
IN_CHECK := tests/house tests/typing
# They measure, and are few: looking for them in all files would take longer than most of them do.
OF_SIZE = $(shell grep -rl --include='test_*.py' 'pytest\.mark\.size' tests)
# What measures does so on the disk; see tests/conftest.py for the others.
ON_DISK := PYTEST_DEBUG_TEMPROOT="$${TMPDIR:-/tmp}"

help:
	@sed -n '/^SHELL/q;s/^#[ ]\{0,1\}//p' Makefile

# Two stamps: the demo needs the package, and whoever looks at its store the faces; a newcomer should not wait for the tools.
$(VENV)/.package: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --editable '.[web]'
	@touch $@

$(VENV)/.tools: $(VENV)/.package
	@echo "installing the development tools ..."
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.package
	@$(BIN)/python -m samples.demo $(ARGS)

# The suite starts hundreds of processes: each would compile the package anew where the environment forbids Python to keep
# what it has compiled.
test test-crossed test-postgres torture check: export PYTHONDONTWRITEBYTECODE =

# Two runs: everything, with cached instances in one half of the tests, and in the other with the cache off, when each turn
# replays from the start (`is_cached` in tests/conftest.py); and the tests of size, alone on the machine (they measure).
test: export DURABLE_TEST_CROSSED ?= 0
test: $(VENV)/.tools
	DURABLE_TEST_CACHE=mixed $(PYTEST) $(PARALLEL) -m "not size" $(or $(ARGS),$(IN_CHECK:%=--ignore=%))
	$(ON_DISK) $(PYTEST) -m size $(or $(ARGS),$(OF_SIZE)) || test $$? -eq 5 # 5: no such test was selected

# Everything both ways, in every combination. All must pass; the result may not differ.
test-crossed: export DURABLE_TEST_CROSSED = 1
test-crossed: $(VENV)/.tools
	DURABLE_TEST_CACHE=1 $(PYTEST) $(PARALLEL) -m "not size" $(ARGS)
	$(ON_DISK) $(PYTEST) -m size $(or $(ARGS),$(OF_SIZE)) || test $$? -eq 5 # 5: no such test was selected
	DURABLE_TEST_CACHE=0 $(PYTEST) $(PARALLEL) -m "not size" $(ARGS)

test-postgres: $(VENV)/.tools
	DURABLE_TEST_STORES=postgres $(PYTEST) $(PARALLEL) -m "not size" $(or $(ARGS),$(WITH_WORKERS) $(wildcard tests/providers/test_postgres*.py))

torture: $(VENV)/.tools
	$(BIN)/python -m tests.torture $(ARGS)

bench: $(VENV)/.package
	$(BIN)/python -m tests.benchmarks.table $(ARGS)

check: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) $(PARALLEL) $(IN_CHECK)

format: $(VENV)/.tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
