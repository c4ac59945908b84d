# chefha: `make lab` shows it, `make test` proves it. Both install and start what they need (as root).

VENV := .venv
PY := $(VENV)/bin/python
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

.DEFAULT_GOAL := help

.PHONY: help venv lint test test-logic test-salt test-parts test-fast lab lab-down bench bench-peer bench-backup bench-shell bench-highstate docs matrix clean

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

test: lint  ## on the default stack: logic, simulation, real parts, Salt, the lab without its long tests (an hour)
	$(MAKE) --no-print-directory -j 3 test-logic test-salt test-parts
	$(PY) -m pytest -m "not packaged and not soak" tests/lab

# Real parts and Salt wait more than they compute, so the lab's image and logic are made meanwhile; a mark tells their
# lines apart.
test-logic: venv
	$(PY) -m lab up --until image 2>&1 | sed -u 's/^/logic | /'
	$(PY) -m pytest tests/unit tests/simulation 2>&1 | sed -u 's/^/logic | /'

test-salt: venv
	$(PY) -m pytest tests/salt 2>&1 | sed -u 's/^/salt  | /'

test-parts: venv
	$(PY) -m pytest tests/functional 2>&1 | sed -u 's/^/parts | /'

test-fast: lint  ## logic only: seconds
	$(PY) -m pytest tests/unit

docs: venv  ## rewrite the pages that are made from the code
	CHEFHA_WRITE_DOCS=1 $(PY) -m pytest -q tests/unit/test_docs.py

matrix: venv  ## the lab's long tests and other stacks, and 20,000 simulated histories
	$(PY) -m pytest -m soak tests/lab
	CHEFHA_LAB_STACKS=newest,elasticsearch $(PY) -m pytest tests/lab -m "everywhere or packaged"
	CHEFHA_HISTORIES=20000 $(PY) -m pytest tests/simulation

bench: venv  ## hand-over and every fault, 5 times each, in the lab
	$(PY) -m bench

bench-peer: venv  ## the same beside Patroni with vip-manager, 3 times each: half an hour
	$(PY) -m bench --peer --runs 3 --only hand-over kill-postgres kill-host pause-host isolate cut-peers

bench-backup: venv  ## backup of 5 GB beside pg_basebackup, in turn, 3 times each, on this machine
	$(PY) -m bench.backup

bench-shell: venv  ## what the shell command takes, 20 times each, in the lab that is up
	$(PY) -m bench.shell

bench-highstate: venv  ## the highstate of empty machines, and the second one: 3 labs from nothing, minutes once there is an image
	$(PY) -m bench.highstate

clean:  ## remove what make made here
	rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
