# Every target sets itself up: a virtual environment in .venv with the package in it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
EXAMPLE := data/spectra/example
OUT ?= out

# Warnings are errors; -n: every reference must lead somewhere.
SPHINX := OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W -n --keep-going -q

.PHONY: fit test test-slow lint docs linkcheck doctest clean

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot,report,dev,synthesis,bayes,survey]'
	touch $@

fit: $(VENV)/.installed  ## fit the example star with the shipped emulator
	$(BIN)/stellarfit fit $(EXAMPLE).fits --resolution 30000 --truth $(EXAMPLE)-truth.json -o $(OUT)
	@echo "wrote $(OUT)/example.h5, $(OUT)/example.ecsv and $(OUT)/example.png"

test: $(VENV)/.installed  ## the tests, in under ten minutes
	$(BIN)/pytest -q -n 2

test-slow: $(VENV)/.installed  ## the tests that take minutes each
	$(BIN)/pytest -q -m slow

lint: $(VENV)/.installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

docs: $(VENV)/.docs  ## the documentation, into build/docs; tutorials run where they have changed
	PATH="$(abspath $(BIN)):$$PATH" $(SPHINX) docs build/docs
	@echo "open build/docs/index.html"

linkcheck: $(VENV)/.docs  ## links: those inside, without a network; ONLINE=1 asks for the others
	$(BIN)/pytest -q tests/docs/test_links.py
	$(SPHINX) -b linkcheck -D nb_execution_mode=off docs build/linkcheck
	@echo "external links that were not asked for without ONLINE=1 (all: build/linkcheck/output.txt):"
	@grep -ho 'https\?://[^ )>`]*' README.md CONTRIBUTING.md CHANGELOG.md docs/*.md docs/*/*.md | sort -u

doctest: $(VENV)/.installed  ## the examples of docstrings and pages, and the messages that pages quote
	$(BIN)/pytest -q --doctest-modules emulators stellarfit --doctest-glob='*.md' docs/conventions.md docs/quickstart.md
	$(BIN)/pytest -q tests/docs/test_troubleshooting.py

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
