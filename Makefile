# make train    set up, then run the default job: a world model of Pendulum-v1 and an actor in it, minutes on two CPU cores
# make test     set up, then lint, check the types and run the tests
# make slow     the tests that take minutes
# make docs     the documentation as a site, site/index.html, that is read without a network
# make fuzz     2,000 random worlds and settings through the whole path; FUZZ_EXAMPLES=100 for fewer
#
# The set-up makes .venv once; it is made again only when a requirement changes.

PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= pendulum

# These networks are small: a second thread only costs a core.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: train test slow docs fuzz clean

train: .venv/installed
	$(BIN)/worldmodel train --config $(CONFIG) $(ARGS)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist loadfile

slow: .venv/installed
	$(BIN)/pytest -m slow

docs: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

fuzz: .venv/installed
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),2000) $(BIN)/pytest tests/test_fuzz.py --hypothesis-show-statistics

.venv/installed: pyproject.toml setup.py constraints.txt
	@echo "setting up .venv; the first time takes some minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv
