# The two commands of a newcomer: `make run` and `make test`. Both set everything up first, into .venv,
# and are quick when that is done. `make help` names the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.set-up
SHELL  := /bin/bash

SGLANG_VENV  := .venv-sglang
SGLANG_BIN   := $(SGLANG_VENV)/bin
SGLANG_STAMP := $(SGLANG_VENV)/.set-up
ON_CPU       := tests/support/sglang_on_cpu

PEERS_VENV   := .venv-peers
PEERS_STAMP  := $(PEERS_VENV)/.set-up
PEERS_NEEDS  := loadtests/peers/requirements.txt

MOSHI_VENV   := .venv-moshi
MOSHI_BIN    := $(MOSHI_VENV)/bin
MOSHI_STAMP  := $(MOSHI_VENV)/.set-up
MOSHI_NEEDS  := tests/support/moshi_on_cpu/requirements.txt

.PHONY: run test long lab setup setup-sglang test-sglang compare-sglang setup-moshi test-moshi setup-peers peers pjsip report clean help

run: setup            ## set up, then take calls on this machine (Ctrl-C ends it)
	@exec $(BIN)/microturn up

test: setup           ## set up, then every check: ruff, mypy, pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

long: setup           ## what `make test` has no time for: rarer deaths under live calls, other servers and doors
	$(BIN)/python -m pytest -m long

lab: setup            ## interface changes, blocked UDP, TURN and lossy lines around a real Chromium (root, 4 minutes)
	$(BIN)/python -m pytest -m lab

setup: $(STAMP)       ## virtual environment and packages, nothing else

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "microturn needs Python 3.11 or later; $(PYTHON) is older: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV), once: about 1.5 GB, most of it torch 2.13.0 and triton for the model (the default build for Linux brings"
	@echo "CUDA and 4 GB more; an index with the CPU build can be named in PIP_INDEX_URL or PIP_EXTRA_INDEX_URL)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup-sglang: $(SGLANG_STAMP)   ## SGLang for CPUs, in an environment of its own

$(SGLANG_STAMP): pyproject.toml $(ON_CPU)/requirements.txt $(ON_CPU)/finish.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "what is pinned for SGLang was tried with Python 3.11 alone: make $@ PYTHON=python3.11"; exit 1; }
	@echo "setting up $(SGLANG_VENV), once: about 2.7 GB, 1 GB of it triton, which SGLang imports without need"
	$(PYTHON) -m venv --clear $(SGLANG_VENV)
	$(SGLANG_BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement $(ON_CPU)/requirements.txt
	$(SGLANG_BIN)/python $(ON_CPU)/finish.py
	$(SGLANG_BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

test-sglang: setup-sglang   ## the engine sglang: equal tokens, guard rails, a telephone call (needs ../shared/data)
	$(SGLANG_BIN)/python -m pytest tests/on_sglang

compare-sglang: setup-sglang   ## step times of digits, sglang, and SGLang over HTTP
	$(SGLANG_BIN)/python -W ignore -m tests.on_sglang.compare

setup-moshi: $(MOSHI_STAMP)   ## the package moshi, in an environment of its own

$(MOSHI_STAMP): pyproject.toml $(MOSHI_NEEDS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "what is pinned for moshi was tried with Python 3.11 alone: make $@ PYTHON=python3.11"; exit 1; }
	@echo "setting up $(MOSHI_VENV), once: about 1.3 GB, most of it torch 2.13.0 (see make setup for its CPU build); no weights"
	$(PYTHON) -m venv --clear $(MOSHI_VENV)
	$(MOSHI_BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement $(MOSHI_NEEDS)
	$(MOSHI_BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

test-moshi: setup-moshi   ## the engine moshi: equal tokens and sound, a telephone call; small random weights
	$(MOSHI_BIN)/python -m pytest tests/on_moshi

setup-peers: $(PEERS_STAMP)   ## Pipecat and LiveKit's plugin, to be compared with and called by, in an environment of their own

$(PEERS_STAMP): $(PEERS_NEEDS)
	@echo "setting up $(PEERS_VENV), once: about 0.95 GB, most of it onnxruntime, llvmlite and OpenCV, which Pipecat imports"
	$(PYTHON) -m venv --clear $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $(PEERS_NEEDS)
	@touch $@

peers: setup setup-peers   ## the same calls at other programs and here, in one run (3 minutes of a quiet machine)
	$(BIN)/python -m loadtests peers

pjsip: setup          ## build pjsua2 from source (5 minutes, once) and use it instead of the wheel
	$(BIN)/pip uninstall --quiet --yes pjsua2-python pjsua2
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "$$(PYTHON=$(BIN)/python deploy/pjsip/build.sh | tail -1)"
	$(BIN)/python -m gateway.sip.limit 2>/dev/null | tail -1

report: setup         ## one page of all kept results: loadtests/results/README.md and report.html, the README's table
	$(BIN)/python -m loadtests page --html loadtests/results/report.html

clean:                ## remove the environment and what was built
	rm -rf $(VENV) $(SGLANG_VENV) $(MOSHI_VENV) .cache build ./*.egg-info

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 16
