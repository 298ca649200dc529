# Everything is installed into .venv inside the checkout; outside it pip alone keeps its cache of downloads.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Its cache of fonts would lie in the home folder otherwise.
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/matplotlib

.PHONY: setup demo test test-recorded test-gpu test-browser soak lint bench eval train-nano clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "Python's venv is missing; install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# A clip the model has never seen, three captions, three soundtracks, in demo/.
demo: $(READY)
	$(BIN)/vatt demo --output demo

test: $(READY)
	$(BIN)/python -m pytest -q -m "not gpu and not browser and not soak"

test-recorded: $(READY)
	$(BIN)/python -m pytest -q -m recorded

soak: $(READY)
	$(BIN)/python -m pytest -q -s -m soak --timeout 3600

test-gpu: $(READY)
	$(BIN)/python -m pytest -q -m gpu

# The page of `vatt preview` in a headless Chromium.
test-browser: $(READY)
	$(BIN)/python -m pytest -q -m browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

eval: $(READY)
	$(BIN)/vatt eval world --cache runs/eval

train-nano: $(READY)
	$(BIN)/vatt train nano --folder runs/nano

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .mypy_cache
