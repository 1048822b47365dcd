# Commands for developers. The targets create and update .venv themselves. PYTHON=... selects the
# interpreter for it.
VENV := .venv
PROJECTS := pyproject.toml $(wildcard src/*/pyproject.toml)

.PHONY: help demo test test-all test-engines check bench docs soak fuzz mutation wheels deploy-check lock clean
.DEFAULT_GOAL := help

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.demo ## Start a local llama.cpp server, run an example program and print its calls
	$(VENV)/bin/llamatelemetry demo

test: $(VENV)/.dev ## Run the fast tests (five minutes on two cores)
	scripts/test $(ARGS)

test-all: $(VENV)/.dev ## Run all tests with coverage (25 minutes)
	scripts/test --all $(ARGS)

test-engines: $(VENV)/.dev ## Install vLLM for the CPU (4 GB) and test with it
	scripts/install-vllm
	REQUIRE_COMPONENTS=vllm $(VENV)/bin/python -m pytest tests/engines -n 0 --no-cov $(ARGS)

check: $(VENV)/.dev ## Check format, lint, types, layers and spelling
	scripts/check

bench: $(VENV)/.dev ## Measure the overhead of tracing
	@set -e; for bench in benchmarks/call_path.py benchmarks/openai_overhead.py benchmarks/openai_long_stream.py benchmarks/start_up.py benchmarks/compare_openai.py; do echo "== $$bench"; $(VENV)/bin/python "$$bench" $(ARGS); done

docs: $(VENV)/.dev ## Build the documentation site into build/site
	@NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(VENV)/bin/python -m mkdocs build

soak: $(VENV)/.dev ## Make calls for ten minutes and check that nothing grows or is lost
	$(VENV)/bin/python scripts/soak.py $(ARGS)

fuzz: $(VENV)/.dev ## Fuzz the readers of foreign data, with coverage guidance
	$(VENV)/bin/python -m pip install --quiet --group fuzz
	$(VENV)/bin/python scripts/fuzz.py $(ARGS)

mutation: $(VENV)/.dev ## Mutate the code and count what the tests notice: ARGS="statistics --sample 200"
	$(VENV)/bin/python -m pip install --quiet --group mutation
	$(VENV)/bin/python scripts/mutation.py $(ARGS)

wheels: $(VENV)/.dev ## Build all five distributions and check them in new environments
	$(VENV)/bin/python scripts/check_wheels.py

deploy-check: ## Validate and run the Collector configurations: OTELCOL=/path/to/otelcol-contrib
	scripts/deploy-check

lock: $(VENV)/.dev ## Update constraints.txt, the versions that all targets install
	$(VENV)/bin/python -m pip install --quiet --group lock
	$(VENV)/bin/python scripts/lock.py

clean: ## Remove the environment and all build output
	rm -rf $(VENV) build dist htmlcov .coverage* .pytest_cache .ruff_cache .import_linter_cache .hypothesis demo-output llamatelemetry-data
	find src tests scripts examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Stamp files: the environment is updated only if one of these files has changed.
$(VENV)/.demo: $(PROJECTS) constraints.txt scripts/install
	scripts/install demo
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	scripts/install dev
	@touch $@
