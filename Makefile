# Two commands, each does its own set-up:
#   make train    trains one small cell on a CPU in minutes and says what to open next
#   make test     runs every test, notebooks included
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: train test notebooks lint bench clean

train: $(READY)
	@$(BIN)/python -m fvlm train --cell T-T_8f_fov

test: $(READY)
	@$(BIN)/python -m pytest

# After editing notebooks/*.py: bring the .ipynb along and run them, so that outputs and code agree.
notebooks: $(READY)
	$(BIN)/jupytext --to ipynb --update notebooks/*.py
	cd notebooks && for n in *.ipynb; do ../$(BIN)/python -m fvlm.notebooks $$n || exit 1; done

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: $(READY)
	@$(BIN)/python -m fvlm bench train

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
