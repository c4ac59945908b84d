# make lab, make lab-down: the whole thing from a bare Debian or Ubuntu machine (as root), and back to bare.
# Included by the Makefile, which makes $(PY).

.PHONY: lab lab-down

lab: venv  ## cluster in containers: engine, images, highstate, status
	$(PY) -m lab up

lab-down: venv  ## remove it: containers, networks, images, and the engine that it started
	$(PY) -m lab down --images --engine
