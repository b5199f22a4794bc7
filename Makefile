# Everything runs in .venv, which is made here when it is missing. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-cluster test-image lint types format lock image clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# uv installs in seconds what pip takes minutes for. Where pip cannot fetch uv, or uv cannot install, pip does it all.
UV = $(BIN)/uv
# pip would also look for conflicts with packages of an older lock; the locks are complete.
OPTIONS := --no-deps --quiet
define install
  { test -x $(UV) && $(UV) pip install --python $(BIN)/python $(OPTIONS) $(1) 2>$(VENV)/uv.log; } \
  || $(BIN)/python -m pip install --disable-pip-version-check $(OPTIONS) $(1)
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "somatic needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null \
	  || echo "uv cannot be installed here; pip is used, which takes a few minutes"

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked packages into $(VENV) (once)"
	@$(call install,--require-hashes -r requirements.lock)
	@$(call install,--editable .)
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "Installing what the tests need"
	@$(call install,--require-hashes -r requirements-dev.lock)
	@touch $@

demo: $(VENV)/.runtime ## features of every cell of a made-up volume, in ./somatic-demo
	@$(BIN)/somatic demo

# Without KUBECONFIG, since the tests of the cluster must not begin on whatever cluster a person works with. Three
# processes also on two cores, since many tests wait for other processes. In the order of the files those that take long
# come first, else one of them would be the last and alone.
PYTEST := KUBECONFIG= $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev lint types ## lint, types and the tests of every part, in some minutes
	@$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.dev ## also accidents, servers that are away, hostile input, pages in a browser
	@$(PYTEST) $(PYTEST_ARGS)

test-cluster: $(VENV)/.dev ## runs and accidents on the Kubernetes cluster that KUBECONFIG names
	@$(BIN)/python -m pytest tests/cluster $(PYTEST_ARGS)

test-image: $(VENV)/.dev ## builds the container image and runs the demo in it
	@SOMATIC_TEST_IMAGE=1 $(BIN)/python -m pytest tests/image $(PYTEST_ARGS)

lint: $(VENV)/.dev ## style, and that every import is a declared dependency
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/deptry somatic tasks flows cli sandbox deployments
	@$(BIN)/deptry tests tests/*/ benchmarks --exclude '^$$' --ignore DEP002,DEP004

types: $(VENV)/.dev ## types
	@$(BIN)/mypy

format: $(VENV)/.dev ## put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(VENV)/.dev ## choose new versions of everything
	@test -x $(UV) || $(BIN)/python -m pip install --quiet uv
	@$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-annotate --quiet --upgrade pyproject.toml -o requirements.lock
	@$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-annotate --quiet --upgrade --group dev pyproject.toml -c requirements.lock -o requirements-dev.lock
	@$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-annotate --quiet --upgrade --extra worker --extra gcs pyproject.toml -c requirements.lock -o requirements-worker.lock
	@$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-annotate --quiet --upgrade --group build -c requirements-dev.lock -o requirements-build.lock

# The first of these that works here. IMAGE_ARGS goes to it; BASE=debootstrap makes the base image on this machine.
BUILDER = $(firstword $(foreach tool,docker podman buildah,$(shell $(tool) info >/dev/null 2>&1 && echo $(tool))))
IMAGE ?= somatic
BASE ?=

image: ## the container image, with docker, podman or buildah
	@test -n "$(BUILDER)" || { echo "none of docker, podman and buildah works here; docs/image.md says what an image needs"; exit 1; }
	@test "$(BASE)" != debootstrap || tests/image/make-base
	@BUILDAH_LAYERS=true $(BUILDER) build $(IMAGE_ARGS) --tag $(IMAGE) \
	  --build-arg COMMIT=$$(git describe --always --exclude '*' --abbrev=12 --dirty=.dirty) .

clean: ## remove .venv and what the demo made
	rm -rf $(VENV) somatic-demo
