# Needs GNU make and Python 3.11 or later. `make help` tells what there is.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Stamps make the second run instant. They lie in the environment, so that they vanish with it.
HAS_TORCH := $(VENV)/.emmdit-torch
HAS_RUN := $(VENV)/.emmdit-run
HAS_DEV := $(VENV)/.emmdit-dev
BASE_PYTHON := $(or $(wildcard $(BIN)/python),$(PYTHON))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint type audit sbom fuzz manifests chaos bench bench-full bench-gpu train constraints clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1|/' | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo
	@echo '  ARGS="..."         is handed on: make run ARGS="--port 9000", make test ARGS="-k queue"'
	@echo '  PYTHON=python3.12  makes the environment with another Python (3.11 or later)'
	@echo '  VENV=DIR           uses an environment of your own instead of .venv'
	@echo '  TORCH=             leaves PyTorch to you (ROCm, CUDA): the one in VENV=DIR or, for a new .venv, the system'"'"'s'
	@echo '                     make run TORCH= VENV="$$VIRTUAL_ENV"'

run: $(HAS_RUN) ## install what is needed, then serve on http://127.0.0.1:8000; Ctrl-C ends it
	@$(BIN)/emmdit serve $(ARGS)

test: $(HAS_DEV) ## install what is needed, then run the tests that take seconds, on all cores
	@$(BIN)/python -m pytest $(or $(ARGS),--numprocesses=logical --maxprocesses=8 --dist=loadfile)

lint: $(HAS_DEV) ## ruff, import rules, Dockerfile, compose file, chart, manifests, YAML, shell
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@$(BIN)/compose-lint check --fail-on low docker-compose.yml
	@$(BIN)/yamllint --strict .compose-lint.yml .yamllint.yml docker-compose.yml deploy
	@$(BIN)/python -m deploy.render --check
	@$(BIN)/check-jsonschema --check-metaschema deploy/helm/emmdit/values.schema.json
	@$(BIN)/kubernetes-validate --strict --quiet deploy/kubernetes/*.yaml
	@$(BIN)/shellcheck .ci/run .ci/fetch-redis-servers deploy/make-secrets.sh

type: $(HAS_DEV) ## mypy, strict
	@$(BIN)/mypy

# ARGS replaces all of it: make chaos ARGS="--seed 7 --jobs 200 --faults 20"; docs/chaos.md tells what it does.
chaos: $(HAS_DEV) ## half an hour: 10,000 jobs and every fault of the table against the running service, by seed
	@$(BIN)/python -m tests.chaos $(or $(ARGS),--seed 11 12 13 14 15 --jobs 2000 --faults 42 --draw-anew 500 --scenarios --out benchmarks/results/chaos.json --table docs/chaos-results.md)

audit: $(HAS_DEV) sbom ## known vulnerabilities of what is pinned, bandit over the code, what is installed as an SBOM
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive service model
	@$(BIN)/python -m supply.audit

sbom: $(HAS_DEV) ## build/sbom.json: every installed package with version and licence (CycloneDX)
	@mkdir -p build
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-file build/sbom.json $(BIN)/python

# Needs `pip install -e '.[fuzz]'`. Inputs that find something land in build/fuzz, new ones beside the old in the corpus.
fuzz: $(HAS_DEV) ## search for inputs that break what strangers reach: make fuzz ARGS="body --seconds 600"
	@$(BIN)/python -m tests.fuzz $(ARGS)

manifests: $(HAS_DEV) ## write deploy/kubernetes and what the chart copies anew
	@$(BIN)/python -m deploy.render

# Benchmarks want a machine that does nothing else. Figures go to benchmarks/results, tables to docs/benchmarks.md.
bench: $(HAS_DEV) ## a quarter of an hour: the demo's engine beside a plain loop, and what the service around it costs
	@$(BIN)/python -m benchmarks.engine --out benchmarks/results/engine-demo.json $(ARGS)
	@$(BIN)/python -m benchmarks.overhead --out benchmarks/results/overhead.json
	@$(BIN)/python -m benchmarks.tables

bench-full: $(HAS_DEV) runs/nitro-random/bundle.json ## the published size with random weights: an hour, 12 GB of memory
	@$(BIN)/python -m benchmarks.engine --model runs/nitro-random --rows 1 8 --calls 3 --pictures 4 --pairs 3 --out benchmarks/results/engine-full.json $(ARGS)
	@$(BIN)/python -m benchmarks.tables

bench-gpu: $(HAS_DEV) runs/nitro-random/bundle.json ## the same on a GPU, in under eight minutes (with TORCH= and VENV= of your own)
	@$(BIN)/python -m benchmarks.engine --model runs/nitro-random --device cuda --dtype bfloat16 --rows 1 8 32 64 --pictures 1 32 --settings 20:4.5 4:0 --pairs 3 --max-s 240 --out benchmarks/results/engine-gpu.json $(ARGS)
	@$(BIN)/python -m benchmarks.tables

runs/nitro-random/bundle.json:
	@$(BIN)/emmdit models make-random nitro-e-512 runs/nitro-random

# Each step keeps what it makes in runs/, and one that was stopped goes on from there.
train: $(HAS_DEV) ## train the demo model from nothing (hours) and write it to runs/demo
	$(BIN)/emmdit train world
	$(BIN)/emmdit train autoencoder
	$(BIN)/emmdit train latents
	$(BIN)/emmdit train denoiser
	$(BIN)/emmdit train export runs/demo
	$(BIN)/emmdit train preview runs/demo runs/world

constraints: ## write constraints.txt anew, from the newest releases that pyproject.toml allows
	$(PYTHON) -m venv --clear build/constraints
	build/constraints/bin/python -m pip install --no-deps --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	build/constraints/bin/python -m pip install -e '.[dev,train]'
	{ sed '/^[^#]/,$$d' constraints.txt; build/constraints/bin/python -m pip freeze --exclude-editable | grep -v '^torch=='; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean: ## delete .venv, caches and what builds leave behind; not runs/
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# Torch first and by itself: as a plain dependency it would bring gigabytes of CUDA. A wheel in a folder that pip's
# own settings name (find-links) wins, which also serves machines without a network.
$(HAS_TORCH):
	@command -v $(BASE_PYTHON) >/dev/null || { echo 'make: there is no $(BASE_PYTHON); name a Python with PYTHON=...' >&2; exit 1; }
	@$(BASE_PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make: $(BASE_PYTHON) is Python %d.%d; name one of 3.11 or later with PYTHON=..." % sys.version_info[:2])'
	@test -x $(BIN)/python || { echo 'making $(VENV)'; $(PYTHON) -m venv $(if $(strip $(TORCH)),,--system-site-packages) $(VENV) || { rm -rf $(VENV); exit 1; }; }
ifneq ($(strip $(TORCH)),)
	@echo 'installing $(TORCH)'
	@$(PIP) install --quiet --no-deps --no-index "$(TORCH)" 2>/dev/null || $(PIP) install --no-deps --extra-index-url $(TORCH_INDEX) "$(TORCH)"
else
	@$(BIN)/python -c 'import importlib.util, sys; importlib.util.find_spec("torch") or sys.exit("make: TORCH= leaves PyTorch to you, and $(VENV) has none: install one there, or name your environment with VENV=DIR")'
endif
	@touch $@

$(HAS_RUN): $(HAS_TORCH) pyproject.toml constraints.txt
	@echo 'installing emmdit and what it needs into $(VENV): a minute or two, once'
	@$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(HAS_DEV): $(HAS_TORCH) pyproject.toml constraints.txt
	@echo 'installing emmdit and what its tests need into $(VENV): a minute or two, once'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,train]'
	@touch $@ $(HAS_RUN)
