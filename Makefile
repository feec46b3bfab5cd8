# make demo | make test | make bench | make bench-learning: each sets everything up if it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LIST   := $(if $(filter Linux,$(shell uname -s)),.requirements/cpu.txt,.requirements/portable.txt)
READY  := $(VENV)/.ready

.PHONY: demo test soak bench bench-learning lint env clean

demo: $(READY)
	@$(BIN)/roundhouse run demo

test: $(READY)
	@$(BIN)/python -m pytest -m "not slow"

soak: $(READY)
	@$(BIN)/python -m pytest -m slow -n 0

bench: $(READY)
	@$(BIN)/python -m tests.benchmarks

# Seven ways of training on the same stored rounds, three seeds: an hour and a half on two cores.
bench-learning: $(READY)
	@$(BIN)/python -m tests.benchmarks.learning_arms

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

env: $(READY)

# Rebuilt when the list or the project's own metadata changes; otherwise this costs nothing.
$(READY): $(LIST) pyproject.toml .requirements/install.sh
	@bash .requirements/install.sh "$(PYTHON)" "$(VENV)" "$(LIST)"
	@touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info
