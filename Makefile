# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Compiled installs halve every start, so the installer must be allowed to write bytecode.
INSTALL := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pip install -q -c constraints.txt
# Three workers keep two cores busy while some wait for a service; thousands of processes start faster from bytecode.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 3 --dist loadgroup
FAST_TESTS := $(addprefix tests/llmtune/,_safety data job metrics planning provider redaction report importers)

.PHONY: demo test test-slow test-fast check format docs site bench lock release release-check services clean

demo: $(VENV)/demo.stamp ## train, evaluate and report two models, offline; the reports are in demo/
	$(BIN)/python tools/demo.py

test: $(VENV)/dev.stamp services ## all tests but the slow ones
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/dev.stamp $(VENV)/pythons.stamp services ## the slow tests: whole pages, examples, killed processes, Pythons
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-fast: $(VENV)/dev.stamp ## a minute: what is computed without a service, a model or a process
	$(PYTEST) -m "not slow" $(FAST_TESTS) $(PYTEST_ARGS)

check: $(VENV)/dev.stamp ## everything a machine can see without running the product
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tools/check_imports.py
	$(BIN)/python tools/check_names.py
	$(BIN)/mypy
	$(BIN)/deptry .
	$(BIN)/typos
	$(BIN)/python tools/docs/generate_docs.py --check
	$(BIN)/python tools/docs/check_docs.py
	$(BIN)/python tools/docs/tutorial.py --check
	$(BIN)/python tools/docs/public_api.py --check
	$(BIN)/python tools/check_lock.py

format: $(VENV)/dev.stamp ## fix what can be fixed by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev.stamp ## rewrite the generated parts of the docs
	$(BIN)/python tools/docs/generate_docs.py
	$(BIN)/python tools/docs/tutorial.py
	$(BIN)/python tools/docs/public_api.py

site: $(VENV)/dev.stamp ## the docs as pages, in site/: strict, offline
	$(BIN)/mkdocs build --quiet --strict

bench: $(VENV)/dev.stamp ## all benchmarks (about an hour; each can be run alone)
	for each in benchmarks/*.py; do $(BIN)/python $$each || exit 1; done

lock: $(VENV)/dev.stamp ## rewrite constraints.txt
	$(BIN)/python tools/check_lock.py --write

release: $(VENV)/dev.stamp ## wheel, sdist, notes and checksums of this commit in dist/, checked; uploads nothing
	$(BIN)/python tools/release.py

release-check: $(VENV)/dev.stamp ## the wheel in clean environments, each extra alone (needs a package index)
	$(BIN)/python tools/try_extras.py

services: ## what some tests want from the system; they are skipped where it cannot be had
	@sh tools/install_services.sh

clean:
	rm -rf $(VENV) demo dist site .mypy_cache .ruff_cache .pytest_cache .coverage*

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[local]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[all,dev]'
	touch $(VENV)/demo.stamp $@

# Clean environments of every Python that is here, and of the lowest versions: tests/system/release runs the wheel in them.
$(VENV)/pythons.stamp: pyproject.toml constraints.txt tools/make_pythons.py | $(VENV)/dev.stamp
	$(BIN)/python tools/make_pythons.py $(VENV)/pythons
	touch $@
