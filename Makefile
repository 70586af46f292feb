# Every target sets itself up: a virtual environment in .venv with the package in it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
EXAMPLE := data/spectra/example
OUT ?= out

.PHONY: fit test test-slow lint docs clean

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

docs: $(VENV)/.installed  ## nothing to build yet: docs/ is read as it is
	@ls docs

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
