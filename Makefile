# make run    the environment, and the example project from start to end
# make test   the environment with the dev extras, and every check

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
UV := $(shell command -v uv 2>/dev/null)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check lint types imports unit golden golden-update integration chaos bench docs lock clean

run: $(VENV)/.run
	$(BIN)/orch run examples/notes_api.yaml

test: check
	$(BIN)/pytest -n auto --dist loadgroup -m 'not slow and not alone'
	$(BIN)/pytest -m 'alone and not slow'

check: lint types imports

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/pytest tests/unit

golden: $(VENV)/.dev
	$(BIN)/pytest -m golden

golden-update: $(VENV)/.dev
	rm -rf tests/golden .golden
	ORCH_RUNS_DIR=.golden $(BIN)/orch run --quiet examples/notes_api.yaml
	mv .golden/job_*/outputs tests/golden
	rm -rf .golden

integration: $(VENV)/.dev
	$(BIN)/pytest tests/integration

# The long form of the fault schedules: other seeds with CHAOS_SEEDS=7,8 make chaos
chaos: $(VENV)/.dev
	$(BIN)/pytest -m slow -s tests/chaos

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/dispatch.py
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/gateway.py

docs: $(VENV)/.dev
	$(BIN)/python -m orchestrator.schemas docs

# The lock files: one that both uv and pip read, for every platform, with hashes.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		pyproject.toml -o requirements/run.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		pyproject.toml --extra mlx --group dev -c requirements/run.txt -o requirements/dev.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist

$(VENV)/.run: requirements/run.txt pyproject.toml | $(BIN)/python
	$(call install,requirements/run.txt)
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	$(call install,requirements/dev.txt)
	@touch $@ $(VENV)/.run

ifdef UV
define install
	uv pip install --quiet --python $(BIN)/python -r $(1)
	uv pip install --quiet --python $(BIN)/python --no-deps -e .
endef
else
define install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(1)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
endef
endif

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "orch needs Python 3.11 or newer: install it, or name it with make PYTHON=…" >&2; exit 1; }
ifdef UV
	uv venv --quiet --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif
