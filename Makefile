# Two commands, each does its own set-up:
#   make train    trains one small cell on a CPU in minutes and says what to open next
#   make test     runs every test, notebooks included
# CONTRIBUTING.md says what the others are for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tested with their own code, but their pins contradict ours: without what they ask for, lmms-eval in a folder of its own.
APART := trackio==0.43.0
LMMS := lmms-eval==0.7.3 'filelock<4' pytablewriter DataProperty mbstrdecoder pathvalidate tabledata tcolorpy typepy chardet

.PHONY: train test test-long test-fast question notebooks figure lint audit bench clean

train: $(READY)
	@$(BIN)/fvlm train --cell T-T_8f_fov

FAULTS ?= 14
HOURS := --timeout 3000 -o faulthandler_timeout=3100 # a test that tries a thing many times takes as long
KILLED_GRID := tests/studies/test_grid.py::test_a_grid_killed_at_random_moments_ends_as_if_it_had_not_been
PYTEST := python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 1

test: $(READY)
	@$(BIN)/$(PYTEST) --durations=15

# Faults, bad input and hostile input, many times as many; under 90 minutes on two cores. outputs/trust.json says
# what was tried, and README quotes it.
test-long: $(READY)
	@FVLM_FAULTS=$(FAULTS) FVLM_TRUST=outputs/trust.json $(BIN)/$(PYTEST) $(HOURS) tests/faults tests/training/test_faults.py $(KILLED_GRID)
	@$(BIN)/fvlm findings

# Some eight minutes on two cores: no browser, no notebook is run, nothing is killed and started again.
test-fast: $(READY)
	@$(BIN)/$(PYTEST) tests -m "not slow"

# Does a question steer the gaze, and does that help? Six runs, under 40 minutes on two cores; goes on where it was stopped.
question: $(READY)
	@$(BIN)/fvlm question

# The README's pictures, from the results that are kept and the run that comes with the repository.
figure: $(READY)
	@$(BIN)/fvlm figures

# After editing notebooks/*.py or RunConfig: write the parameters cell, pair, and execute.
notebooks: $(READY)
	@$(BIN)/fvlm notebooks

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

bench: $(READY)
	@$(BIN)/fvlm bench train

# Known vulnerabilities in the versions of constraints.txt; asks a public service, so it needs a network.
audit: $(READY)
	$(BIN)/python -m pip_audit --requirement constraints.txt --no-deps --disable-pip --strict

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): 3 GB, some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(APART)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/lmms $(LMMS)
	@touch $@

clean:
	rm -rf $(VENV)
