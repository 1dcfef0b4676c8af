# Each target sets up what it needs and then does its one job; a second call installs nothing again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: on few cores two threads wait for each other more than they help, and results repeat exactly.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 WANDB_MODE=offline

.PHONY: demo test test-all test-real bench style format clean

demo: $(VENV)/installed  ## train the recipes on their samples, offline, on a CPU; one thread, since the models are small
	for recipe in sentiment ner qa translation summarization dialogue; do OMP_NUM_THREADS=1 $(BIN)/accelerate launch recipes/$$recipe/run.py || exit; done

test: $(VENV)/installed-dev  ## every test that needs neither network nor GPU nor downloads
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/installed-dev  ## and those of every launcher and every adapter with every recipe; writes their tables: most of an hour
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not real"
	$(BIN)/python -m tests.tables

test-real: $(VENV)/installed-dev  ## tests with a real pretrained model and real data; says what is missing
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -m real -rs

bench: $(VENV)/installed-dev  ## padding and speed beside upstream's, on the GPU if there is one; DATA=directory ENCODER=directory
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.padding $(if $(DATA),--data $(DATA)) $(if $(ENCODER),--encoder $(ENCODER))
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.speed $(if $(DATA),--data $(DATA)) $(if $(ENCODER),--encoder $(ENCODER))

style: $(VENV)/installed-dev  ## check lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed-dev  ## mend what `make style` finds, where it can be mended by rule
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was installed and what runs have written
	rm -rf $(VENV) outputs *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@
