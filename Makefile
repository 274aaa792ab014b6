# make demo | test | test-all | audit | lab | assets | clean. Everything is installed into .venv; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all audit lab assets clean

# The stamp is as new as the last complete installation
.venv/installed: settings.ini setup.py pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "sdn_lite needs Python 3.10 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip setuptools
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/sdn_train --out runs/demo
	@echo 'Look at runs/demo/report.png'

test: .venv/installed
	$(BIN)/python tests/run.py

# And what takes long: 30 kills, two minutes of damaged models, and three installations of 5 GB from nothing (one after the other)
test-all: .venv/installed
	$(BIN)/python tests/run.py -m 'slow or not slow'

# Asks PyPI whether a vulnerability is known in anything that was installed
audit: .venv/installed
	$(BIN)/python tools/audit.py

lab: .venv/installed
	$(BIN)/jupyter lab nbs

assets: .venv/installed
	$(BIN)/python tools/build_assets.py all

clean:
	rm -rf .venv build dist *.egg-info
