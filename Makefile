# What a newcomer can do: `make help`.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
# Tests compile much and run little. XLA up to 0.10 has an older way to compile loops, which
# takes half the time. The newest has one way, and ends a process that asks for the other.
EMITTERS := --xla_cpu_use_fusion_emitters=false
OLDER := $$(XLA_FLAGS=$(EMITTERS) $(BIN)/python -c 'import jax; jax.devices()' 2>/dev/null \
  && echo $(EMITTERS))
SOON := XLA_FLAGS="--xla_backend_optimization_level=0 \
  --xla_llvm_disable_expensive_passes=true $(OLDER)"
STUDY ?= layers

.DEFAULT_GOAL := help
.PHONY: help install newest train test test-all dist docs docs-check lint accuracy gradients nonlinear map bench compare records data counts lock clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(ENV)/installed  ## Install the pinned versions into .venv

$(ENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Installing into $(ENV) (once; a minute or two) ..."
	@$(PYTHON) -m venv $(ENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

newest: install  ## Upgrade .venv to the newest versions of everything
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
	  --upgrade-strategy eager -e '.[train,test]'

train: install  ## Train HomoODE on handwritten digits (a minute or two)
	@$(BIN)/python train.py --config=configs/digits.py

test: install  ## Run the tests (five to ten minutes)
	@$(SOON) $(PYTEST) -m "not slow"

test-all: install  ## Run the slow tests too (forty to eighty minutes)
	@$(SOON) $(PYTEST)

dist: install  ## Build the wheel and the source distribution into dist/
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist

lint: install  ## Run the linters: ruff and pyright
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright

docs: install  ## Run the code of the pages, and build the site into site/
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@$(BIN)/python -m pytest tests/test_blocks.py -k code_of_a_page
	@NO_MKDOCS_2_WARNING=1 PATH=$(CURDIR)/$(BIN):$$PATH mkdocs build --strict --quiet
	@echo "site/index.html"

docs-check: docs  ## Follow every link of the site, in a browser too (needs Chromium)
	@$(BIN)/python docs/check.py site

counts: install  ## Count what makes the code hard to read
	@$(BIN)/python -m benchmarks.counts

accuracy: install  ## Measure gradients by tolerance (writes results/accuracy.json)
	@$(BIN)/python -m benchmarks.accuracy

records: install  ## List the records under results/ that the code has outrun
	@$(BIN)/python -m benchmarks.records

gradients: install  ## Measure every gradient route of every function (writes results/gradients.json)
	@$(BIN)/python -m benchmarks.gradients

nonlinear: install  ## Run the solvers on standard nonlinear systems (writes results/nonlinear*.json)
	@$(SOON) $(BIN)/python -m benchmarks.nonlinear.library
	@$(SOON) $(BIN)/python -m benchmarks.nonlinear.run

map: install  ## Solve thousands of random cells by radius and dimension (writes results/map.* and trained.json)
	@$(SOON) $(BIN)/python -m benchmarks.nonlinear.map
	@$(SOON) $(BIN)/python -m benchmarks.nonlinear.trained

bench: install  ## Measure speed and memory beside PyTorch, CPU build (writes results/speed.json)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --extra-index-url https://download.pytorch.org/whl/cpu -r requirements-compare.txt
	@$(BIN)/python -m benchmarks.speed.run

compare: export DATASET := $(DATASET)
compare: export DATA_DIR := $(DATA_DIR)
compare: export SEEDS := $(SEEDS)
compare: export FLAGS := $(FLAGS)
compare: export ONLY := $(ONLY)
compare: install  ## Train the family side by side: make compare [DATASET=digits] [SEEDS=3] [STUDY=layers]
	@$(BIN)/python -m benchmarks.compare.run $(STUDY)

data: DATASET ?= mnist
data: DATA_DIR ?= $(HOME)/tensorflow_datasets
data: export DATASET := $(DATASET)
data: export DATA_DIR := $(DATA_DIR)
data: install  ## Download and prepare a TFDS data set: make data DATASET=mnist [DATA_DIR=...]
	@$(BIN)/python -m homoode_jax.experiments.prepare "$$DATASET"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[prepare]'
	@$(BIN)/python -m homoode_jax.experiments.prepare "$$DATASET" "$$DATA_DIR"

lock:  ## Pin the newest versions again (needs uv)
	uv pip compile --quiet --universal --fork-strategy fewest --no-header --no-annotate \
	  --python-version 3.11 --extra train --extra test pyproject.toml -o requirements.txt

clean:  ## Remove .venv and caches; runs and data stay
	rm -rf $(ENV) .pytest_cache .ruff_cache *.egg-info
