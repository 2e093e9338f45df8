# Every target sets up .venv first if it must. `make` alone prints this list.
SHELL := /bin/bash
PYTHON ?= python3
# Only names that a parameter file can have: they stand in recipes.
NAMES := $(filter-out template,$(shell ls params | sed -nE 's/^([A-Za-z0-9][A-Za-z0-9_-]*)\.yaml$$/\1/p'))
VERBS := check resume evaluate tune why report remove predict
RUNNER := .venv/bin/python -m lib
# .venv holds a copy of each lock that it was installed from: a lock that is only touched installs nothing.
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo -gpu)
SETUP := .venv/requirements$(GPU).txt
TOOLS := .venv/requirements-dev.txt
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-strip-extras --no-emit-index-url --no-header --no-annotate --quiet

# A value is taken as it was typed: make would expand each `$` in it, and run the command in `$(shell ...)`.
VARIABLES := ARCHIVE WEIGHTS OUTPUTS SET RUN PHOTOS OUTPUT EPOCHS LR DATA WHEELS ITEM QUICK
$(foreach name,$(VARIABLES),$(eval override $(name) := $$(value $(name))))
# Through the environment, so that it may hold spaces and quotes.
export $(VARIABLES)
CHANGE = --set="$$SET" --run="$$RUN" --archive="$$ARCHIVE" --weights="$$WEIGHTS" --outputs="$$OUTPUTS"

# A misspelt variable would be ignored, and its value expanded.
UNKNOWN := $(strip $(foreach name,$(filter-out $(VARIABLES) PYTHON GPU,$(.VARIABLES)),$(if $(filter command,$(firstword $(origin $(name)))),$(name))))
ifneq ($(UNKNOWN),)
$(error unknown variable $(firstword $(UNKNOWN)). Expected: $(VARIABLES), PYTHON or GPU)
endif

COMMANDS := help setup demo compare lab test test-fast test-slow coverage lint format docs notebooks acceptance bench gpu-check gpu-wheels lock
TARGETS := $(sort $(COMMANDS) $(NAMES) $(foreach verb,$(VERBS),$(NAMES:%=$(verb)-%)))
# Such a parameter file would take the place of a command.
CLASH := $(filter $(filter-out demo,$(COMMANDS)) $(VERBS:%=%-%),$(NAMES))
ifneq ($(CLASH),)
$(error params/$(firstword $(CLASH)).yaml: the name is reserved for a target of make. Rename the file, and `name` in it. \
	Reserved: $(filter-out demo,$(COMMANDS)), and names that begin with $(VERBS:%=%-))
endif
.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

help:
	@echo "Pipeline"
	@echo "  make demo                       the whole pipeline on a synthetic sample: no account, no GPU"
	@echo "  make check-<name>               print what would be read, in seconds, before anything runs"
	@echo "  make <name>                     the whole pipeline on a data set: $(NAMES)"
	@echo "  make resume-<name>              train a finished run for more epochs: EPOCHS=10 LR=0.0001"
	@echo "  make evaluate-<name>            evaluate and explain the trained model, without training"
	@echo "  make tune-<name>                search for better parameters, as defined in the file's section tune"
	@echo "  make compare                    compare the runs in outputs/, and average the best"
	@echo "  make predict-<name>             predict a folder of photos: PHOTOS=folder OUTPUT=file.csv"
	@echo "Variables"
	@echo "  ARCHIVE=file.zip                photos from an archive that you already have"
	@echo "  WEIGHTS=file                    backbone weights from a file"
	@echo "  SET=\"key=value ...\"             changed parameters, in a run folder of their own; RUN=name names it"
	@echo "  OUTPUTS=folder                  runs and photos in another folder than outputs/"
	@echo "Runs"
	@echo "  make why-<name>                 explain why a step is out of date"
	@echo "  make report-<name>              write the report again"
	@echo "  make remove-<name>              delete a run; photos are kept"
	@echo "  make lab                        JupyterLab on notebooks/"
	@echo "Development"
	@echo "  make test                       fast tests and notebooks: about 8 minutes on 2 cores"
	@echo "  make test-fast                  tests that import no backend: about a minute"
	@echo "  make test-slow                  tests that take minutes each"
	@echo "  make coverage                   line coverage of lib by the fast tests"
	@echo "  make lint, format               check style and types; fix style"
	@echo "  make docs                       write the generated pages of docs/ again"
	@echo "  make notebooks                  execute the committed notebooks again, in place"
	@echo "  make acceptance DATA=folder     train and check the butterfly recipe on real photos (docs/datasets.md)"
	@echo "  make bench DATA=folder          accuracy and speed beside other programs: docs/benchmarks.md;"
	@echo "                                  ITEM=name for one benchmark, QUICK=1 to check results in minutes"
	@echo "  make gpu-check                  the demo and steps of four recipes on the GPU; WHEELS=folder without .venv"
	@echo "  make gpu-wheels                 download what gpu-check needs without a network; WHEELS=folder"
	@echo "  make setup, lock                install .venv, as every target does first; compile the locks (needs uv)"

# A name that is no target gets a message of our own. It is read from the environment: a shell must not see it.
export GOALS := $(value MAKECMDGOALS)
.DEFAULT:
	@TARGETS="$(TARGETS)" $(PYTHON) -c "import difflib, os, sys; \
	known = os.environ['TARGETS'].split(); \
	goal = next((goal for goal in os.environ['GOALS'].split() if goal not in known), '?'); \
	near = difflib.get_close_matches(goal, known, n=1); \
	hint = f' Did you mean \`make {near[0]}\`?' if near else ''; \
	sys.exit(f'There is no target {goal!r}.{hint} \`make\` prints all of them. For photos of your own, copy params/template.yaml to params/<name>.yaml')"

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
	@test $* != requirements-gpu || .venv/bin/python -c "import sys; from lib.networks import backend; \
		sys.exit(0 if backend.GPUS else 'nvidia-smi lists a GPU, but TensorFlow sees none: check the driver, or do without: make GPU=')"
	@cp $< $@

$(TOOLS): $(SETUP)

$(NAMES): $(SETUP)
	@$(RUNNER) run $@ $(CHANGE)

$(NAMES:%=check-%): check-%: $(SETUP)
	@$(RUNNER) check $* $(CHANGE)

$(NAMES:%=resume-%): resume-%: $(SETUP)
	@$(RUNNER) resume $* $(CHANGE) --epochs="$$EPOCHS" --lr="$$LR"

$(NAMES:%=evaluate-%): evaluate-%: $(SETUP)
	@$(RUNNER) evaluate $* $(CHANGE)

$(NAMES:%=tune-%): tune-%: $(SETUP)
	@$(RUNNER) tune $* $(CHANGE)

compare: $(SETUP)
	@$(RUNNER) compare --set="$$SET" --outputs="$$OUTPUTS"

$(NAMES:%=why-%): why-%: $(SETUP)
	@$(RUNNER) why $* $(CHANGE)

$(NAMES:%=report-%): report-%: $(SETUP)
	@$(RUNNER) report $* $(CHANGE)

$(NAMES:%=remove-%): remove-%: $(SETUP)
	@$(RUNNER) remove $* --run="$$RUN" --outputs="$$OUTPUTS"

$(NAMES:%=predict-%): predict-%: $(SETUP)
	@$(RUNNER) predict $* --run="$$RUN" --photos="$$PHOTOS" --output="$$OUTPUT" --outputs="$$OUTPUTS"

lab: $(TOOLS)
	.venv/bin/jupyter lab notebooks

# The notebooks write into a folder of their own, never into a user's outputs/demo.
test: $(TOOLS)
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow" tests && \
	KERAS_BACKEND=jax .venv/bin/python -m pytest -n 2 --dist loadfile -m "backend and not slow" tests && \
	CHRYSALIS_OUTPUTS=$$scratch .venv/bin/python -m pytest notebooks/0[1-9]*.ipynb notebooks/00_start.ipynb \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=600

# Skips each test that imports a backend or starts another Python: tests/conftest.py.
test-fast: $(TOOLS)
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow" --without-backend tests

test-slow: $(TOOLS)
	.venv/bin/python -m pytest -m slow tests
	KERAS_BACKEND=jax .venv/bin/python -m pytest -m "backend and slow" tests
	@! .venv/bin/python -c "import torch" 2>/dev/null || KERAS_BACKEND=torch .venv/bin/python -m pytest -m backend tests

coverage: $(TOOLS)
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	COVERAGE_FILE=$$scratch/coverage .venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow" \
		--cov=lib --cov-report=term:skip-covered tests

lint: $(TOOLS)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: $(TOOLS)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: $(SETUP)
	.venv/bin/python docs/generate.py

notebooks: $(TOOLS)
	@scratch="$(CURDIR)/outputs/.notebooks" && trap 'rm -rf "$$scratch"' EXIT && rm -rf "$$scratch" && \
	CHRYSALIS_OUTPUTS=$$scratch JUPYTER_PATH= .venv/bin/jupyter nbconvert --to notebook --inplace --execute \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.kernel_name=python3 \
		notebooks/0[1-9]*.ipynb notebooks/00_start.ipynb && \
	sed -i.old 's#outputs/\.notebooks#outputs#g' notebooks/00_start.ipynb && rm notebooks/00_start.ipynb.old

# Before anything is installed.
.PHONY: .data
.data:
	@test -d "$$DATA" || { echo "acceptance and bench need DATA=folder, the folder with butterfly.zip, flowers.zip" \
		"and biology.zip: docs/datasets.md describes where to get them" >&2; exit 2; }

acceptance: .data $(TOOLS)
	@$(RUNNER) run butterfly --run=acceptance --archive="$$DATA/butterfly.zip" --weights="$$WEIGHTS" \
		--outputs="$$OUTPUTS" \
		--set="model.image_size=160 train.stages.head.epochs=15 train.stages.fine_tune.epochs=20"
	@CHRYSALIS_OUTPUTS="$${OUTPUTS:-$$CHRYSALIS_OUTPUTS}" .venv/bin/python tests/acceptance.py

# It reads DATA, WEIGHTS, ITEM and QUICK.
bench: .data $(TOOLS)
	@CHRYSALIS_OUTPUTS="$${OUTPUTS:-$$CHRYSALIS_OUTPUTS}" .venv/bin/python benchmarks/run.py

# With WHEELS, the packages of PYTHON and those wheels take the place of .venv.
gpu-check: $(if $(WHEELS),,$(SETUP))
	@$(if $(WHEELS),$(PYTHON),.venv/bin/python) benchmarks/gpu.py

gpu-wheels: $(SETUP)
	@.venv/bin/python benchmarks/gpu_wheels.py

# The two others take the versions of the first. It keeps those in requirements-dev.txt: delete that for newer ones.
lock:
	$(COMPILE) --group dev -o requirements-dev.txt
	$(COMPILE) -c requirements-dev.txt -o requirements.txt
	$(COMPILE) -c requirements-dev.txt --extra gpu -o requirements-gpu.txt
