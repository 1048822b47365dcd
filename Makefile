# What a person types. Everything happens in .venv, which the targets make and complete
# themselves; PYTHON=... chooses the interpreter it is made with.
VENV := .venv
PROJECTS := pyproject.toml $(wildcard src/*/pyproject.toml)

.PHONY: help demo test test-all check bench wheels lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.demo ## real calls to a real llama.cpp server, each one shown
	$(VENV)/bin/llamatelemetry demo

test: $(VENV)/.dev ## the fast tests, in under five minutes on two cores
	scripts/test $(ARGS)

test-all: $(VENV)/.dev ## all tests, with coverage: some 15 minutes
	scripts/test --all $(ARGS)

check: $(VENV)/.dev ## format, lint, types, layers, spelling
	scripts/check

bench: $(VENV)/.dev ## what tracing adds to a call
	@set -e; for bench in benchmarks/openai_overhead.py benchmarks/openai_long_stream.py benchmarks/compare_openai.py; do echo "== $$bench"; $(VENV)/bin/python "$$bench" $(ARGS); done

wheels: $(VENV)/.dev ## build all five distributions and try them in clean environments
	$(VENV)/bin/python scripts/check_wheels.py

lock: $(VENV)/.dev ## renew constraints.txt, the versions that all of the above install
	$(VENV)/bin/python -m pip install --quiet --group lock
	$(VENV)/bin/python scripts/lock.py

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist htmlcov .coverage* .pytest_cache .ruff_cache .import_linter_cache .hypothesis demo-output llamatelemetry-data
	find src tests scripts examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Stamps: an environment is completed again only when what it was made from has changed.
$(VENV)/.demo: $(PROJECTS) constraints.txt scripts/install
	scripts/install demo
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	scripts/install dev
	@touch $@
