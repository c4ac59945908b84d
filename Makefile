# chefha: `make lab` shows it, `make test` proves it. Both install and start what they need (as root).

VENV := .venv
PY := $(VENV)/bin/python
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

.DEFAULT_GOAL := help

.PHONY: help venv lint test test-fast lab lab-down bench bench-peer bench-backup bench-highstate docs matrix clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

include lab/lab.mk

# ---- tools -----------------------------------------------------------------------------------------------------

venv: $(VENV)/.done  ## Python environment with what requirements.lock pins

$(VENV)/.done: requirements.lock pyproject.toml
	@scripts/prepare-machine
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -r requirements.lock
	$(PY) -m pip install --quiet --no-deps -e .
	@touch $@

lint: venv  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# ---- tests -----------------------------------------------------------------------------------------------------

test: lint  ## everything on the default stack: logic, simulation, real parts, Salt, the lab (an hour)
# The logic needs one core, the lab's image (minutes, where there is none) the network and the other one.
	$(PY) -m lab up --until image & trap wait EXIT; $(PY) -m pytest tests/unit tests/simulation; wait $$!
	$(PY) -m pytest tests/functional tests/salt
	$(PY) -m pytest -m "not packaged" tests/lab

test-fast: lint  ## logic only: seconds
	$(PY) -m pytest tests/unit

docs: venv  ## rewrite the pages that are made from the code
	CHEFHA_WRITE_DOCS=1 $(PY) -m pytest -q tests/unit/test_docs.py

matrix: venv  ## the lab's other stacks, and 20,000 simulated histories
	CHEFHA_LAB_STACKS=newest,elasticsearch $(PY) -m pytest tests/lab -m "everywhere or packaged"
	CHEFHA_HISTORIES=20000 $(PY) -m pytest tests/simulation

bench: venv  ## hand-over and every fault, 5 times each, in the lab
	$(PY) -m bench

bench-peer: venv  ## the same beside Patroni with vip-manager, 3 times each: half an hour
	$(PY) -m bench --peer --runs 3 --only hand-over kill-postgres kill-host pause-host isolate cut-peers

bench-backup: venv  ## backup of 5 GB beside pg_basebackup, in turn, 3 times each, on this machine
	$(PY) -m bench.backup

bench-highstate: venv  ## the highstate of empty machines, and the second one: 3 labs from nothing, minutes once there is an image
	$(PY) -m bench.highstate

clean:  ## remove what make made here
	rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
