# Every target sets up .venv first where it must. `make` alone prints this list.
SHELL := /bin/bash
PYTHON ?= python3
NAMES := $(filter-out template,$(basename $(notdir $(wildcard params/*.yaml))))
RUNNER = CHRYSALIS_ARCHIVE="$$ARCHIVE" CHRYSALIS_WEIGHTS="$$WEIGHTS" CHRYSALIS_OUTPUTS="$${OUTPUTS:-$$CHRYSALIS_OUTPUTS}" .venv/bin/python -m lib.pipeline
# .venv holds a copy of each lock that it was installed from: a lock that is only touched installs nothing.
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo -gpu)
SETUP := .venv/requirements$(GPU).txt
TOOLS := .venv/requirements-dev.txt
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --quiet
# Through the environment, so that a path or a value may hold spaces and quotes.
export ARCHIVE WEIGHTS OUTPUTS SET RUN PHOTOS

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-slow lint notebooks bench gpu-check acceptance lock $(NAMES) compare $(foreach verb,resume tune why remove predict,$(NAMES:%=$(verb)-%))

help:
	@echo "make demo                        the whole pipeline on drawn butterflies: no account, no GPU"
	@echo "make <name>                      the whole pipeline on a data set: $(NAMES)"
	@echo "     ARCHIVE=file.zip            photos from an archive that you downloaded by hand"
	@echo "     WEIGHTS=file                backbone weights from a file"
	@echo "     SET=\"key=value ...\"         other parameters, in a folder of their own; RUN=name names it"
	@echo "     OUTPUTS=folder              runs and photos elsewhere than in outputs/"
	@echo "make resume-<name> SET=\"...\"     more epochs, or another rate, on top of the finished training"
	@echo "make tune-<name>                 search for better parameters, as the file's section tune says"
	@echo "make compare                     the runs in outputs/ side by side, and an ensemble of them"
	@echo "make predict-<name> PHOTOS=dir   predict a folder of photos with the trained model"
	@echo "make why-<name>                  why a stage would be executed again"
	@echo "make remove-<name>               remove the run, never the photos"
	@echo "make lab                         JupyterLab on notebooks/"
	@echo "make test, test-slow, lint       tests and notebooks; the long ones; style"
	@echo "make notebooks                   execute the committed notebooks again, in place"
	@echo "make acceptance                  the butterfly run on the photos in ../shared/data, checked"
	@echo "make bench                       what 02_clean finds and how fast, measured on the photos in ../shared/data"
	@echo "make setup, lock                 .venv, which every target sets up first; the locks from pyproject.toml (needs uv)"
	@echo "make gpu-check                   one mixed-precision step and the photos per second on the GPU"

setup: $(SETUP)

.venv/bin/pip:
	@command -v $(PYTHON) >/dev/null || { exec >&2; echo "Python 3.11 to 3.13 is needed, and there is no $(PYTHON)."; \
		echo "On Debian and Ubuntu: sudo apt install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
		f'Python 3.11 to 3.13 is needed. $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.11')"
	@$(PYTHON) -c "import ensurepip" 2>/dev/null || { exec >&2; echo "$(PYTHON) has no ensurepip, which .venv needs."; \
		echo "On Debian and Ubuntu: sudo apt install $(notdir $(PYTHON))-venv"; exit 1; }
	$(PYTHON) -m venv .venv

# A copy of the lock says that it is installed, so that a failure leaves nothing that counts as ready.
# pip takes no folder beside hashes: the project itself comes in a second command.
.venv/%.txt: %.txt | .venv/bin/pip
	@if ! cmp -s $< $@; then set -e; \
		echo "Installing $< into .venv: some minutes, once"; \
		$(PIP) --require-hashes -r $<; \
		$(PIP) --no-deps -e .; \
	fi
	@test $* != requirements-gpu || .venv/bin/python -c "import sys; from lib.networks import device; \
		sys.exit(0 if device.GPUS else 'nvidia-smi lists a GPU, but TensorFlow sees none: check the driver, or do without: make GPU=')"
	@cp $< $@

$(TOOLS): $(SETUP)

$(NAMES): $(SETUP)
	@$(RUNNER) run $@ --set "$$SET" --run "$$RUN"

$(NAMES:%=resume-%): resume-%: $(SETUP)
	@$(RUNNER) resume $* --set "$$SET" --run "$$RUN"

$(NAMES:%=tune-%): tune-%: $(SETUP)
	@$(RUNNER) tune $* --set "$$SET" --run "$$RUN"

# It compares runs of any names: its parameters are those of `compare`, whatever the file.
compare: $(SETUP)
	@$(RUNNER) compare demo --set "$$SET"

$(NAMES:%=why-%): why-%: $(SETUP)
	@$(RUNNER) why $* --set "$$SET" --run "$$RUN"

$(NAMES:%=remove-%): remove-%: $(SETUP)
	@$(RUNNER) remove $* --run "$$RUN"

$(NAMES:%=predict-%): predict-%: $(SETUP)
	@$(RUNNER) predict $* --photos "$$PHOTOS" --run "$$RUN"

lab: $(TOOLS)
	.venv/bin/jupyter lab notebooks

# The notebooks write into a folder of their own, never into a user's outputs/demo.
test: $(TOOLS)
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow" tests && \
	CHRYSALIS_OUTPUTS=$$scratch .venv/bin/python -m pytest notebooks \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=600

test-slow: $(TOOLS)
	.venv/bin/python -m pytest -m slow tests

lint: $(TOOLS)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

notebooks: $(TOOLS)
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	CHRYSALIS_OUTPUTS=$$scratch .venv/bin/jupyter nbconvert --to notebook --inplace --execute \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.kernel_name=python3 notebooks/0*.ipynb

acceptance: $(TOOLS)
	@$(MAKE) --no-print-directory butterfly RUN=acceptance ARCHIVE=../shared/data/butterfly.zip \
		WEIGHTS=../shared/weights/mobilenet_v2_1.0_224_no_top.weights.h5 \
		SET="model.image_size=160 train.stages.head.epochs=15 train.stages.fine_tune.epochs=20"
	.venv/bin/python tests/acceptance.py

# All of them run, whichever misses its target.
bench: $(TOOLS)
	@status=0; \
	for benchmark in label_errors.py "near_duplicates.py --photos 12" "cleaning.py ../shared/data/flowers.zip"; do \
		echo "benchmarks/$$benchmark"; .venv/bin/python benchmarks/$$benchmark || status=1; \
	done; \
	exit $$status

gpu-check: $(SETUP)
	.venv/bin/python benchmarks/gpu.py

# The two others take the versions of the first. It keeps those in requirements-dev.txt: delete that for newer ones.
lock:
	$(COMPILE) --group dev -o requirements-dev.txt
	$(COMPILE) -c requirements-dev.txt -o requirements.txt
	$(COMPILE) -c requirements-dev.txt --extra gpu -o requirements-gpu.txt
