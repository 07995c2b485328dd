# `make help` lists what there is.
VENV ?= .venv
BIN := $(VENV)/bin
export VENV PYTHON STACK TORCH

# More processes than this do not pay: a test takes less than starting torch.
TEST_PROCESSES ?= 2

.PHONY: help env demo demo-full demo-retab test lint clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: ## Create the virtual environment (VENV, PYTHON, STACK=official|onedl, TORCH)
	@bash tools/dev/make_env.sh

demo: env ## Run the method end to end on generated images
	@$(BIN)/python tools/demo.py

demo-full: env ## The same at full length; also train on M_base and on true masks
	@$(BIN)/python tools/demo.py --full

demo-retab: env ## RETAB end to end on generated images: some classes have masks, the rest have tags
	@$(BIN)/python tools/demo.py --retab

test: lint ## Check style and types, then run the tests
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES)

lint: env ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean: ## Remove the environment and all caches
	rm -rf $(VENV) build dist *.egg-info mmseg_dhr/.mim .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find mmseg_dhr configs tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
