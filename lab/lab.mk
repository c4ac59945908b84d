# make lab, make lab-down: the whole thing from a bare Debian or Ubuntu machine (as root), and back to bare.
# Included by the Makefile, which makes $(PY).

.PHONY: lab lab-down

lab: venv  ## cluster in containers: engine, images, highstate, status
	$(PY) -m lab up

lab-down: venv  ## remove every trace of it
	$(PY) -m lab down --images --engine
