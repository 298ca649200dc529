# Everything is installed into .venv inside the checkout; outside it pip alone keeps its cache of downloads.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Its cache of fonts would lie in the home folder otherwise.
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/matplotlib

.PHONY: setup demo test test-recorded test-optional record-audiocraft test-gpu test-service test-foreign test-browser test-blender test-editors test-blender-window plugins soak lint bench bench-sound examples eval train-nano clean

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
	$(BIN)/python -m pytest -q -m "not gpu and not browser and not soak and not editors and not window and not optional and not service"

test-recorded: $(READY)
	$(BIN)/python -m pytest -q -m recorded

soak: $(READY)
	$(BIN)/python -m pytest -q -s -m soak --timeout 3600

# Starts a systemd of its own; needs root.
test-service: $(READY)
	$(BIN)/python -m pytest -q -m service

test-gpu: $(READY)
	$(BIN)/python -m pytest -q -m gpu

# The page of `vatt preview` in a headless Chromium.
test-browser: $(READY)
	$(BIN)/python -m pytest -q -m browser

# Real Blenders as Python modules, each in an environment of its own (about 1 GB): 4.2 to 5.0 are built for Python 3.11,
# 5.1 and 5.2 for Python 3.13. Their wheels (about 370 MB) are kept: what was fetched once is not fetched again.
PYTHON311 ?= python3.11
PYTHON313 ?= python3.13
BLENDERS := 4.2 4.5 5.0 5.1 5.2
BLENDER_4.2 := 4.2.23
BLENDER_4.5 := 4.5.15
BLENDER_5.0 := 5.0.1
BLENDER_5.1 := 5.1.2
BLENDER_5.2 := 5.2.3
EDITORS := build/editors
EDITOR_PYTHON = $(if $(filter 5.1 5.2,$*),$(PYTHON313),$(PYTHON311))
EDITOR_WHEEL = $(EDITORS)/wheels/bpy-$(BLENDER_$*)-*.whl

$(EDITORS)/%/.ready: constraints.txt
	@$(EDITOR_PYTHON) -c 'import venv' || \
	  { echo "Blender $* needs $(EDITOR_PYTHON); name another with: make PYTHON311=/path/to/it PYTHON313=/path/to/it"; exit 1; }
	$(EDITOR_PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pyzmq msgpack
	@mkdir -p $(EDITORS)/wheels
	@ls $(EDITOR_WHEEL) > /dev/null 2>&1 || \
	  { echo "Fetching Blender $(BLENDER_$*), about 370 MB"; \
	    $(@D)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	      --dest $(@D)/fetched bpy==$(BLENDER_$*) && mv $(@D)/fetched/*.whl $(EDITORS)/wheels; } || \
	  { echo "Blender could not be fetched: pip found no wheel bpy==$(BLENDER_$*) or no network. Put it into $(EDITORS)/wheels, or try again."; exit 1; }
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(EDITOR_WHEEL)
	@touch $@

# The Blender extension, one zip for each platform, in dist/blender.
plugins: $(READY) $(EDITORS)/4.5/.ready
	$(BIN)/python plugins/blender/build.py --bpy $(EDITORS)/4.5/bin/python

# One Blender; the others follow with test-editors.
test-blender: plugins
	VATT_BLENDERS=4.5 $(BIN)/python -m pytest -q -m editors

test-editors: plugins $(BLENDERS:%=$(EDITORS)/%/.ready)
	VATT_BLENDERS="$(BLENDERS)" $(BIN)/python -m pytest -q -m editors

# A real window, in a Debian of its own under build/window; needs root, debootstrap, Xvfb, xdotool and ImageMagick.
test-blender-window: plugins
	$(BIN)/python -m pytest -q -s -m window

# A client in another language, written from docs/protocol.md alone; needs Node and npm.
test-foreign: $(READY)
	cd tests/daemon/foreign && npm install --no-package-lock --no-audit --no-fund --loglevel=error
	$(BIN)/python -m pytest -q tests/daemon/test_foreign_client.py

# audiocraft pins an old torch: its codec's own modules are installed without what it asks for, beside the libraries here.
OPTIONAL := build/optional
LIBRARIES := import sysconfig; print(sysconfig.get_path('purelib'))

$(OPTIONAL)/.ready: $(READY) constraints.txt
	$(BIN)/python -m venv $(OPTIONAL)
	$(OPTIONAL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(OPTIONAL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  -c constraints.txt antlr4-python3-runtime audiocraft bitsandbytes cloudpickle colorlog dora-search einops flashy omegaconf \
	  retrying submitit treetable
	@# The archive of audiocraft brings its tests along under a name that would hide ours.
	rm -rf "$$($(OPTIONAL)/bin/python -c "$(LIBRARIES)")/tests"
	echo "import site; site.addsitedir('$$($(BIN)/python -c "$(LIBRARIES)")')" \
	  > "$$($(OPTIONAL)/bin/python -c "$(LIBRARIES)")/beside.pth"
	@touch $@

test-optional: $(OPTIONAL)/.ready
	$(OPTIONAL)/bin/python -m pytest -q -m optional

record-audiocraft: $(OPTIONAL)/.ready
	$(OPTIONAL)/bin/python -m tests.optional.record_audiocraft

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.full_size

# The figures of docs/sound.md: seams, lengths, takes, regions, nudges (about half an hour).
bench-sound: $(READY)
	$(BIN)/python -m benchmarks.sound

# The listening examples and pictures of docs/sound.md.
examples: $(READY)
	$(BIN)/python docs/sound/make.py

eval: $(READY)
	$(BIN)/vatt eval world --cache runs/eval

train-nano: $(READY)
	$(BIN)/vatt train nano --folder runs/nano

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .mypy_cache
