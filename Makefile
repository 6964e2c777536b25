# Two commands: `make demo` distils real images, `make test` runs the tests.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test coverage lint clean

demo: .venv/installed
	$(PY) -m delt_jax.main --config=configs/digits.py --workdir=runs/digits

test: .venv/installed-test
	$(PY) -m pytest -n 2 --dist loadfile

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
