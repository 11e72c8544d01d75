# make demo: from an inventory to a deployed cluster network, on this machine.   make test: everything it can prove.
.POSIX:
.PHONY: help setup demo demo-cluster demo-down lab-kubernetes lint test bench clean

VENV ?= .venv
BIN = $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

help:
	@echo "make demo            two machines, from inventory.yaml to an encrypted cluster network (root; Debian)"
	@echo "make demo-cluster    the same with real Kubernetes, which is built first (needs Go)"
	@echo "make demo-down       take the demo's machines down again"
	@echo "make test            all tests that this machine can run; says what it skipped and why"
	@echo "make lint            ruff, mypy --strict, shellcheck"
	@echo "make bench           measurements, side by side"
	@echo "make lab-kubernetes  build Kubernetes for the lab and the tests (once; some minutes; needs Go)"
	@echo "make setup           the virtual environment and Debian's packages (the others call it)"

# The packages first, because Debian keeps venv apart from Python.
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.sh
	./setup.sh
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: setup
	./lab/demo.sh

demo-cluster: lab-kubernetes
	./lab/demo.sh

lab-kubernetes: setup
	./setup.sh gcc libc6-dev libseccomp-dev pkg-config
	inv lab.kubernetes

demo-down: setup
	inv lab.down --name demo

lint: setup
	ruff check .
	ruff format --check .
	mypy
	shellcheck setup.sh .ci/run $$(git ls-files '*.sh')

test: setup
	pytest

bench: setup
	python -m bench

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
