# Two commands: `make demo` distils real images, `make test` runs the tests.
# `make test_rest` runs the costly ones of a kind of which `make test` has others, `test_all` both.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test test_rest test_all coverage lint clean

demo: .venv/installed
	$(PY) -m delt_jax.main --config=configs/digits.py --workdir=runs/digits

test: .venv/installed-test
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not exhaustive"

test_rest: .venv/installed-test
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m exhaustive

test_all: test test_rest

coverage: .venv/installed-test
	$(PY) -m pytest -n 2 --dist loadfile --cov --cov-report=term

lint: .venv/installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-test: pyproject.toml | .venv/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch .venv/installed $@

clean:
	rm -rf .venv runs *.egg-info
