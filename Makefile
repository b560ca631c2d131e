# The two commands that matter: `make run` and `make test`. Both create what they need.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Byte-code makes every import 2-4 times faster; uv compiles it once at install.
unexport PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE := 1
# uv does not read pip's find-links: a machine that keeps wheels on disk is told here.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_LINK_MODE ?= copy

.PHONY: help run down test test-all check format lock env images clean
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-8s %s\n", $$1, $$2}'

run: env ## start the stack, run the breast_cancer pipeline through Airflow, print the verdict
	$(BIN)/slipway up
	$(BIN)/slipway trigger breast_cancer --wait || test $$? = 3  # 3: refused with reasons, such as the champion's own graph

down: ## stop every process that the stack started
	@test ! -x $(BIN)/slipway || $(BIN)/slipway down

test: check compiled ## check, every test without servers, then a short pass on real servers
	$(BIN)/python -m tests.tiers test

test-all: check compiled ## check, then every test, with coverage
	$(BIN)/python -m tests.tiers all --coverage

# workers and the processes that tests start find the byte-code, and do not each make it
.PHONY: compiled
compiled: env
	@$(BIN)/python -m compileall -q pipeline training feature_checks serving dags tests benchmarks

check: env ## lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy docker/triton/answers.py
	$(BIN)/lint-imports

format: env ## rewrite the code in the house's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

env: $(VENV)/.ready .triton/.ready .tools/.ready ## the environment, the tritonserver and helm beside it

$(VENV)/.ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

.triton/.ready: $(wildcard serving/server_files/* serving/native/*) serving/install.py $(VENV)/.ready
	$(BIN)/python -m serving.install
	touch $@

.tools/.ready: tests/helm/tools.py $(VENV)/.ready
	$(BIN)/python tests/helm/tools.py .tools
	touch $@

# The images of the chart; IMAGES= may name laptop (for docker/compose.yaml), steps-gpu and triton-gpu too. What pip needs
# here to reach its index is handed to the build: a CA bundle, a folder of wheels.
# the first that can build: docker's client alone cannot
BUILDER ?= $(or $(shell docker version >/dev/null 2>&1 && echo docker),$(shell command -v podman || command -v buildah))
REGISTRY ?=
TAG ?= 0.1.0
IMAGES ?= airflow steps mlflow triton
file-steps-gpu := docker/steps/Dockerfile --build-arg ACCELERATOR=cuda
file-triton-gpu := docker/triton/Dockerfile.gpu
mounts = $(if $(wildcard $(PIP_CERT)),-v $(PIP_CERT):/etc/ssl/certs/ca-certificates.crt:ro) \
	$(if $(wildcard $(PIP_FIND_LINKS)),-v $(PIP_FIND_LINKS):$(PIP_FIND_LINKS):ro)
# HEALTHCHECK is part of docker's format alone
build = $(if $(findstring buildah,$(BUILDER)),bud --format docker --isolation chroot --layers $(mounts),$(if $(findstring \
	podman,$(BUILDER)),build --format docker $(mounts),build))
arguments = $(foreach name,PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS,$(if $($(name)),--build-arg $(name)=$($(name)))) \
	--build-arg VERSION=$(TAG) --build-arg REVISION=$(or $(shell git rev-parse HEAD 2>/dev/null),unknown)

images: $(IMAGES:%=image-%) ## build the container images (BUILDER=docker, podman or buildah; REGISTRY=, TAG=, IMAGES=, BUILD_FLAGS=)

image-%:
	@test -n "$(BUILDER)" || { echo "no docker, podman or buildah here: install one, or set BUILDER" >&2; exit 2; }
	$(BUILDER) $(build) $(arguments) $(BUILD_FLAGS) -t $(REGISTRY)slipway-$*:$(TAG) -f $(or $(file-$*),docker/$*/Dockerfile) .

pin = $(BIN)/uv pip compile --quiet --no-annotate --no-header --no-emit-find-links --python $(BIN)/python
lock: ## resolve the dependencies anew
	$(pin) --upgrade --group dev --extra ray pyproject.toml -o requirements.lock
	set -e; for image in airflow steps mlflow triton; do \
		$(pin) -c requirements.lock docker/$$image/requirements.in -o docker/$$image/requirements.lock; done
	$(pin) -c requirements.lock pyproject.toml -o docker/laptop/requirements.lock
	sed -i "s/+cpu$$//" requirements.lock docker/*/requirements.lock  # one lock installs the CPU build and the CUDA build

clean: down ## remove what was built (the stack's state in .slipway stays)
	rm -rf $(VENV) .triton .tools .mypy_cache .ruff_cache .pytest_cache
