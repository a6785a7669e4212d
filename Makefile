# Needs make and Python 3.11 or newer with its venv module; everything else is installed into .venv,
# and what needs SQLAlchemy 1.4 into .venv-sqlalchemy14. The work of installing is in tools/venv.sh.

VENV ?= .venv
PEER = $(VENV)-peer
PATRONI = $(VENV)-patroni
PYTHON ?=
ARGS ?=
export VENV PYTHON

.PHONY: help demo demo-picture docs test test-all bench patroni simulate web lint format clean constraints
.PHONY: venv-demo venv-dev venv-patroni venv-peer venv-sqlalchemy14

help:
	@echo 'make demo         watch an application keep writing while its master is killed'
	@echo 'make test         run the tests on real PostgreSQL servers'
	@echo 'make test-all     run them on every Python that is here, with all drivers, none, and the oldest'
	@echo 'make bench        measure, beside the bare drivers and the published hasql; an hour for all'
	@echo 'make patroni      let a real Patroni change its leader under the load of each driver'
	@echo 'make chaos        let faults happen to every driver under load, and measure what they cost'
	@echo 'make web          let a master be killed under the load of each web framework'
	@echo 'make simulate     play thousands of random stories of a cluster in virtual time'
	@echo 'make docs         build the documentation: docs/_build/html/index.html'
	@echo 'make demo-picture run the demo and draw it anew for README.rst'
	@echo 'make lint         check style and types, and that the documentation builds'
	@echo 'make format       put the code in the style that lint checks'
	@echo 'make clean        remove what these commands made'
	@echo 'make constraints  write constraints*.txt anew, with the newest versions'
	@echo
	@echo 'ARGS="..."        what to hand on:  make demo ARGS="--fault freeze",  make test ARGS="-k dsn"'
	@echo 'PYTHON=python3.12 the Python to use (default: the newest of 3.13, 3.12 and 3.11)'
	@echo 'VENV=/some/where  the virtual environment (default: .venv)'

venv-demo:
	@sh tools/venv.sh demo

venv-dev:
	@sh tools/venv.sh dev

venv-sqlalchemy14:
	@VENV="$(VENV)-sqlalchemy14" sh tools/venv.sh sqlalchemy14

demo: venv-demo
	"$(VENV)/bin/hasql" demo $(ARGS)

# The picture in README.rst, from a real run.
demo-picture: venv-demo
	"$(VENV)/bin/python" tools/demo_picture.py resources/demo.svg

# Warnings are errors. Autodoc imports every driver's module.
docs: venv-dev
	"$(VENV)/bin/python" -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

test: venv-dev venv-sqlalchemy14
	@sh tools/test.sh $(ARGS)

test-all: venv-dev
	"$(VENV)/bin/python" -m nox -- $(ARGS)

bench: venv-dev venv-peer
	@"$(VENV)/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --group bench
	"$(VENV)/bin/python" benchmarks --peer "$(PEER)/bin/python" $(ARGS)

# The published hasql bears our name, so it has an environment of its own.
venv-peer: venv-dev
	@cmp -s benchmarks/peer.txt "$(PEER)/.hasql-peer" || { \
		"$(VENV)/bin/python" -m venv --clear "$(PEER)" && \
		"$(PEER)/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
			--constraint constraints.txt --requirement benchmarks/peer.txt && \
		cp benchmarks/peer.txt "$(PEER)/.hasql-peer"; }

patroni: venv-dev venv-patroni
	"$(VENV)/bin/python" -m chaos.patroni $(ARGS)

# Patroni and etcd; the tests that need them are skipped without.
venv-patroni: venv-dev
	@sh tools/patroni.sh "$(PATRONI)" "$(VENV)/bin/python"

# Both environments are asked, and it fails if something was wrong in one of them.
chaos: venv-dev venv-sqlalchemy14
	@"$(VENV)/bin/python" -m chaos $(ARGS); first=$$?; \
		"$(VENV)-sqlalchemy14/bin/python" -m chaos $(ARGS) && exit $$first

web: venv-dev
	"$(VENV)/bin/python" -m chaos.web $(ARGS)

# ARGS="--seed 17" tells the story of one seed; ARGS=--commits plays those of commits.
simulate: venv-dev
	"$(VENV)/bin/python" -m simulation --seeds 5000 $(ARGS)

lint: venv-dev
	"$(VENV)/bin/python" -m ruff check
	"$(VENV)/bin/python" -m ruff format --check
	"$(VENV)/bin/python" -m mypy
	@$(MAKE) --no-print-directory docs

format: venv-dev
	"$(VENV)/bin/python" -m ruff check --fix
	"$(VENV)/bin/python" -m ruff format

clean:
	@sh tools/venv.sh none
	@VENV="$(VENV)-sqlalchemy14" sh tools/venv.sh none
	rm -f .venv.lock .venv-sqlalchemy14.lock .venv-newest.lock
	[ ! -e "$(PEER)/.hasql-peer" ] || rm -rf "$(PEER)"
	[ ! -e "$(PATRONI)/.hasql-patroni" ] || rm -rf "$(PATRONI)"
	rm -rf docs/_build
	rm -rf .benchmarks .hypothesis .nox .mypy_cache .pytest_cache .ruff_cache dist
	find chaos examples hasql testbed tests -name __pycache__ -prune -exec rm -rf {} +

# In an environment of its own, without the pins: what the newest releases agree on. setuptools is
# pinned only where it builds something.
newest = VENV=.venv-newest CONSTRAINTS=/dev/null sh tools/venv.sh
freeze = .venv-newest/bin/python -m pip freeze --all --exclude-editable
constraints:
	$(newest) none
	$(newest) dev
	{ echo '# Written by `make constraints`: what demo, tests and linters run with, on every Python.'; \
		$(freeze) --exclude setuptools; } >constraints.txt
	$(newest) none
	$(newest) sqlalchemy14
	{ echo '# Written by `make constraints`: what the drivers for SQLAlchemy 1.4 are tested with.'; \
		$(freeze); } >constraints-sqlalchemy14.txt
	$(newest) none
