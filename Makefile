# Needs make and Python 3.11 or newer with its venv module; everything else is installed into .venv.
# The work of installing is in tools/venv.sh.

VENV ?= .venv
PYTHON ?=
ARGS ?=
export VENV PYTHON

.PHONY: help demo test lint format clean constraints venv-demo venv-dev

help:
	@echo 'make demo         watch an application keep writing while its master is killed'
	@echo 'make test         run the tests on real PostgreSQL servers'
	@echo 'make lint         check style and types'
	@echo 'make format       put the code in the style that lint checks'
	@echo 'make clean        remove what these commands made'
	@echo 'make constraints  write constraints.txt anew, with the newest versions'
	@echo
	@echo 'ARGS="..."        what to hand on:  make demo ARGS="--fault freeze",  make test ARGS="-k dsn"'
	@echo 'PYTHON=python3.12 the Python to use (default: the newest of 3.13, 3.12 and 3.11)'
	@echo 'VENV=/some/where  the virtual environment (default: .venv)'

venv-demo:
	@sh tools/venv.sh demo

venv-dev:
	@sh tools/venv.sh dev

demo: venv-demo
	"$(VENV)/bin/hasql" demo $(ARGS)

test: venv-dev
	"$(VENV)/bin/python" -m pytest $(ARGS)

lint: venv-dev
	"$(VENV)/bin/python" -m ruff check
	"$(VENV)/bin/python" -m ruff format --check
	"$(VENV)/bin/python" -m mypy

format: venv-dev
	"$(VENV)/bin/python" -m ruff check --fix
	"$(VENV)/bin/python" -m ruff format

clean:
	@sh tools/venv.sh none
	rm -f .venv.lock .venv-newest.lock
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
	find hasql tests -name __pycache__ -prune -exec rm -rf {} +

# In an environment of its own, without the pins: what the newest releases agree on.
constraints:
	VENV=.venv-newest sh tools/venv.sh none
	VENV=.venv-newest CONSTRAINTS=/dev/null sh tools/venv.sh dev
	{ echo '# Written by `make constraints`: what demo, tests and linters run with, on every Python.'; \
		.venv-newest/bin/python -m pip freeze --all --exclude-editable --exclude setuptools; \
	} >constraints.txt
	VENV=.venv-newest sh tools/venv.sh none
