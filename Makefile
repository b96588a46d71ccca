# Needs Python 3.11-3.13, make and git; everything else is installed into .venv and .tools.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env lock book notebooks lint test unit chapters nbval smoke coverage serve clean

PYTHON ?= >=3.11,<3.14
PORT ?= 8000
BOOT := $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python,$(shell command -v $(name))))
UV := $(or $(shell command -v uv),.tools/bin/uv)
BIN := .venv/bin
BUILD := $(BIN)/python -m repro.report.build

CHAPTERS := tests/test_official_chapter.py
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))

# Notebooks run by pytest take no parameters: these keep what they write ($* is the notebook) out of the tree, and the
# user's settings out of them.
SCRATCH := $(CURDIR)/_build/nbval
NBVAL_ENV = REPRO_DATA=$(CURDIR)/_build/data REPRO_STORE=$(CURDIR)/_build/store REPRO_RUNS=$(SCRATCH)/$* \
	MPLCONFIGDIR=$(CURDIR)/_build/config/matplotlib IPYTHONDIR=$(CURDIR)/_build/config/ipython \
	MPLBACKEND=module://matplotlib_inline.backend_inline

export UV_HTTP_TIMEOUT ?= 600
export PIP_ROOT_USER_ACTION = ignore
export PIP_DISABLE_PIP_VERSION_CHECK = 1

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: .venv/.synced ## make .venv with the versions of requirements.lock

.tools/bin/uv:
	@echo "== installing uv into .tools"
	@$(BOOT) -m pip install --quiet --target .tools uv \
		|| { $(BOOT) -m venv .tools/venv && .tools/venv/bin/python -m pip install --quiet --target .tools uv; } \
		|| { echo "uv could not be installed: put uv on the PATH, or install Python's pip (or venv) module" >&2; exit 1; }

.venv/.synced: requirements.lock pyproject.toml | $(UV)
	@echo "== making .venv (the first time this downloads torch)"
	@$(UV) venv --quiet --allow-existing --no-python-downloads --python "$(PYTHON)" .venv
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import sys, torch, torchvision; print("== Python", sys.version.split()[0], "torch", torch.__version__, "torchvision", torchvision.__version__)'
	@touch $@

lock: | $(UV) ## write requirements.lock anew from pyproject.toml
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --extra dev \
		--custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

book: env ## execute the notebooks and build _build/html/index.html
	@$(BUILD)

notebooks: env ## execute the committed notebooks in place and write their text twins
	@$(BUILD) --notebooks

lint: env ## ruff, formatting, types
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy

unit: env ## unit tests
	@echo "== unit tests"
	@$(BIN)/python -m pytest --ignore $(CHAPTERS)

chapters: env ## every chapter on a folder of videos, as the README types it
	@echo "== chapters on a folder of videos"
	@$(BIN)/python -m pytest $(CHAPTERS)

nbval: $(NOTEBOOKS:notebooks/%.ipynb=nbval-%) ## do the committed notebooks repeat?

nbval-%: env
	@echo "== $* against its committed output"
	@rm -rf $(SCRATCH)/$* && mkdir -p _build/config
	@$(NBVAL_ENV) $(BIN)/python -m pytest -W default --nbval notebooks/$*.ipynb

smoke: env ## run every notebook with preset=smoke from nothing
	@$(BUILD) --smoke

# None of them uses more than a core for long. Each speaks when it is done.
test: lint ## everything that must pass
	@echo "== unit tests, chapters and notebooks, two at a time: some minutes without a word"
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target unit chapters nbval

coverage: env ## unit tests with line and branch coverage
	@$(BIN)/python -m pytest --cov --cov-report=term

serve: ## show the built book on this machine
	@test -f _build/html/index.html || { echo "no book yet: run make book" >&2; exit 1; }
	@echo "== http://localhost:$(PORT)/ (Ctrl-C stops it)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

clean: ## remove what was built (not .venv)
	rm -rf _build .mypy_cache .pytest_cache .ruff_cache .coverage
