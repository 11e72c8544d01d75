# make demo: the main job, with real Kubernetes, on this machine.   make test: the tests.   make help: the rest.
.POSIX:
.PHONY: help setup venv lock demo demo-quick demo-down lab-kubernetes lab-qemu conformance
.PHONY: lint docs test test-all test-newest test-minors bench bench-scale clean

VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/pip --quiet --disable-pip-version-check
NEWEST = $(VENV)-newest
# What a command starts ends with it, also when it is killed: a second run never meets the remains of the first.
WITH = $(shell command -v setpriv >/dev/null && echo setpriv --pdeathsig KILL --)
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Hundreds of processes load the same modules: each finds what another has compiled, whatever the environment says.
export PYTHONDONTWRITEBYTECODE =

help:
	@echo "make demo            the main job on two machines of the lab, with real Kubernetes (root; Debian)"
	@echo "make demo-quick      the same without Kubernetes"
	@echo "make demo-down       take the demo's machines down"
	@echo "make conformance     the official conformance tests on three machines (FOCUS='sig-auth', RESUME=1)"
	@echo "                     (EXTENDED=1: others of sig-network, sig-storage; OPERATIONS=1: after rotations, reboots)"
	@echo "make test            unit, integration and lab tests; skips state the reason"
	@echo "make test-all        the same, and the tests of virtual machines and clusters (real Kubernetes)"
	@echo "make test-newest     unit tests with the newest versions of all dependencies"
	@echo "make test-minors     from the oldest minor of Kubernetes to the newest and one back, under load; QEMU"
	@echo "make lint            ruff, mypy --strict, shellcheck, nixfmt where there is one"
	@echo "make docs            docs/inventory.md and docs/tasks.md, made from the models and the tasks"
	@echo "make bench           measurements, side by side, into bench/RESULTS.md (BENCH='startup nix': only these;"
	@echo "                     BENCH=--quick: each once, to see that it works; BENCH=footprint: idle machines of the lab;"
	@echo "                     BENCH=ready: from three machines to nodes that are Ready, beside kubeadm)"
	@echo "make bench-scale     the API server with up to 254 hollow nodes, into docs/scale.md (seven minutes)"
	@echo "make lab-kubernetes  build Kubernetes for the lab and the tests (once)"
	@echo "make lab-qemu        QEMU for virtual machines in the lab (inv lab.up --backend qemu)"
	@echo "make setup           Debian's packages and the virtual environment (the others call it)"
	@echo "make venv            the virtual environment alone: enough for clusters of your own"
	@echo "make lock            renew requirements.txt: the newest versions, with hashes"
	@echo "make clean           remove the virtual environments and the tools' caches"

# The packages first, because Debian keeps venv apart from Python.
setup:
	./setup.sh
	$(MAKE) --no-print-directory venv

venv: $(VENV)/.installed

# Begun anew, so that an interrupted one is not built upon; and not by its own Python, which is first in PATH.
# The locked pip first: an earlier one takes half as long again.
$(VENV)/.installed: requirements.txt pyproject.toml
	rm -rf $(VENV)
	python3 -m venv $(VENV)
	sed -n '/^pip==/,/#/p' requirements.txt > $(VENV)/pip.txt
	$(WITH) $(PIP) install --require-hashes --requirement $(VENV)/pip.txt
	$(WITH) $(PIP) install --require-hashes --requirement requirements.txt
	$(WITH) $(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

lock: setup
	uv pip compile --quiet --upgrade --universal --generate-hashes --extra test --extra lock \
	  --custom-compile-command "make lock" --output-file requirements.txt pyproject.toml

lab-kubernetes: setup
	./setup.sh gcc libc6-dev libseccomp-dev libsqlite3-dev pkg-config
	$(WITH) inv lab.kubernetes

lab-qemu: setup
	./setup.sh qemu-system-x86 qemu-utils e2fsprogs xz-utils

conformance: lab-kubernetes
	$(WITH) inv lab.conformance $(if $(FOCUS),--focus '$(FOCUS)') $(if $(RESUME),--resume) $(if $(EXTENDED),--extended) \
	  $(if $(OPERATIONS),--operations)

demo: lab-kubernetes
	$(WITH) ./lab/demo.sh

demo-quick: setup
	$(WITH) ./lab/demo.sh --quick

demo-down: setup
	inv lab.down --name demo

lint: setup
	ruff check .
	ruff format --check .
	mypy
	shellcheck setup.sh .ci/run $$(git ls-files '*.sh')
	@if command -v nixfmt >/dev/null; then nixfmt --check $$(git ls-files 'nix/modules/*.nix'); \
	else echo "lint: no nixfmt, so the layout of nix/modules is not checked (cargo install nixfmt_rs has one)"; fi

docs: setup
	python -m docs.reference

# More processes than cores: most tests wait for machines. The longest first.
test: setup
	pytest --numprocesses=5 tests/lab tests/integration tests/unit

# What `make test` runs, the virtual machine and the clusters. What QEMU translates takes minutes of one core: tests that
# only compute, in which nothing waits for it, get the other. Clusters wait less and compute more: fewer processes.
test-all: lab-kubernetes
	pytest --numprocesses=5 tests/lab tests/integration --ignore=tests/integration/nix
	pytest --numprocesses=2 tests/virtual tests/integration/nix tests/unit
	pytest --numprocesses=4 tests/cluster

test-newest: setup
	python3 -m venv --clear --without-pip $(NEWEST)
	$(PIP) --python $(NEWEST)/bin/python install --editable '.[test]'
	PATH="$(CURDIR)/$(NEWEST)/bin:$$PATH" pytest --numprocesses=3 tests/unit

# Builds what the lab lacks: the tests of conformance, and each minor.
test-minors: lab-kubernetes lab-qemu
	pytest --capture=no -m '' tests/minors tests/virtual

bench: setup
	python -m bench --output bench/RESULTS.md --scale docs/scale.md $(BENCH)

SCALE = SMALLKUBE_WORKSPACE=$(CURDIR)/.smallkube/scale

# The lab stays up when a step fails.
bench-scale: lab-kubernetes
	mkdir -p .smallkube/scale
	inv lab.up --name scale --nodes 2 --workspace .smallkube/scale
	for step in "keys.scan --yes" keys.generate nix.render deploy; do $(SCALE) $(WITH) inv $$step || exit; done
	$(WITH) python -m bench.scale
	inv lab.down --name scale
	rm -rf .smallkube/scale

clean:
	rm -rf $(VENV) $(NEWEST) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
