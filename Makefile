# Everything that people do with this tree. `make` alone lists the targets.
# The virtual environment is .venv. It is set up on first use, and again only when pyproject.toml has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -qq
ACL_TESTS ?= tests/integration
CLUSTER_TESTS ?= tests/integration
PYTEST := $(BIN)/pytest
PARALLEL := -n 4 --dist loadfile
SOURCES := engine broker sdk workers cli

# containers often set it: each process that a test starts would compile all modules anew
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demo-kill test test-all test-unsticky test-acl test-cluster needs coverage chaos-short check lint \
	bench bench-long bench-cluster bench-bulk bench-peers chaos fuzz audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## count the standard library with a server and two workers; needs only Python
	@$(BIN)/python -m examples.census.demo

demo-kill: $(VENV)/.installed ## the same, and one of the workers is killed half-way
	@$(BIN)/python -m examples.census.demo --kill

test: $(VENV)/.installed-dev ## the tests that need only Python; the last line says what is left out (about 5 minutes)
	@$(PYTEST) -q --quick $(PARALLEL)

test-all: needs coverage chaos-short test-acl test-cluster ## everything, as CI does (about 25 minutes); needs libfaketime

coverage: $(VENV)/.installed-dev ## all tests but the fault tests, with branch coverage; fails below 95 %
	@$(BIN)/coverage erase
	@$(MAKE) test PYTEST="$(BIN)/coverage run -m pytest"
	$(BIN)/coverage run -m pytest -q --rest --ignore tests/chaos $(PARALLEL)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	@$(BIN)/coverage json -q -o .coverage.json
	@$(BIN)/python -m tests.support.coverage_gate .coverage.json

chaos-short: $(VENV)/.installed-dev ## the fault tests in their short size
	$(BIN)/pytest -q tests/chaos $(PARALLEL)

needs: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.support.requirements

test-unsticky: $(VENV)/.installed-dev ## the tests of workers, with runs that go back to their queue after each step
	$(BIN)/pytest tests/integration tests/chaos --sticky 0

test-acl: $(VENV)/.installed-dev ## the integration tests on a server with users, each process with its role's rights alone
	$(BIN)/pytest -q $(ACL_TESTS) --acl $(PARALLEL)

test-cluster: $(VENV)/.installed-dev ## the integration tests on a cluster of 3 primaries and 3 replicas
	$(BIN)/pytest -q $(CLUSTER_TESTS) --cluster -n 2 --dist loadfile

check: lint ## format, lint, types, import rules, unit tests
	$(BIN)/pytest -q tests/unit

lint: $(VENV)/.installed-dev ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.installed ## measure stepflow (under 3 minutes)
	$(BIN)/python -m benchmarks.stepflow

bench-long: $(VENV)/.installed ## the same at depth: 100,000 runs queued or parked, 10,000 steps, 4 workers, an idle one (10 minutes)
	$(BIN)/python -m benchmarks.stepflow --long

bench-cluster: $(VENV)/.installed-dev ## measure one server beside clusters of 1 and of 3 primaries (4 minutes)
	$(BIN)/python -m benchmarks.cluster

bench-bulk: $(VENV)/.installed ## retry 15,000 failed runs at 500 a second, a worker killed every 5 s, beside other work (4 minutes)
	$(BIN)/python -m benchmarks.bulk

bench-peers: $(VENV)/.installed ## measure stepflow side by side with queues and engines (half an hour)
	$(BIN)/python -m benchmarks.peers --long 3

chaos: $(VENV)/.installed-dev ## the fault tests in their long size: kills, pauses, restarts
	$(BIN)/pytest tests/chaos --long

FUZZ_CASES ?= 1000000
FUZZ_SEED ?= 0

fuzz: $(VENV)/.installed-dev ## a million cases of hostile input (15 minutes); FUZZ_CASES= and FUZZ_SEED= choose others
	$(BIN)/pytest tests/fuzz --cases $(FUZZ_CASES) --seed $(FUZZ_SEED) --around 40 --timeout 3600

audit: ## look for known vulnerabilities in the dependencies; one that cannot be looked up is an error too
	$(PYTHON) -m venv .audit
	.audit/bin/pip --disable-pip-version-check --quiet --quiet install pip-audit
	.audit/bin/pip-audit --strict .

clean: ## remove what make and the tools have created
	rm -rf $(VENV) .audit .peers .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* census-report.json dist build
	find $(SOURCES) tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON): install Python 3.11 or newer, or make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); stepflow needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "error: $(PYTHON) cannot make virtual environments: install its venv package (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing stepflow into $(VENV), once (about a minute) ..." >&2
	@$(PIP) install -e '.[embedded]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing stepflow into $(VENV), once (about a minute) ..." >&2
	@$(PIP) install -e '.[embedded,dev]'
	@touch $(VENV)/.installed $@
