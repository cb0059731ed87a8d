# `make demo` and `make test` work on a machine that has only Python 3.11, pip, make and git.
# python3.11 where there is one of that name, else whatever python3 is (3.11 or newer)
PYTHON := $(shell command -v python3.11 >/dev/null 2>&1 && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow test-research check format bench docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## fine-tune a teacher, distil a half-depth student, print the table (offline, a few minutes)
	$(BIN)/codir demo --output runs/demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

test-research: $(STAMP)  ## research/: the pages say what the collected results say
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest research/tests

check: $(STAMP)
	$(BIN)/ruff format --check src tests benchmarks research
	$(BIN)/ruff check src tests benchmarks research
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff format src tests benchmarks research
	$(BIN)/ruff check --fix src tests benchmarks research

bench: $(STAMP)  ## one after the other, each prints its goal and whether it was met; BENCH=--quick for a trial
	for file in benchmarks/bench_*.py; do \
	  echo; echo "== $$file"; OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python $$file $(BENCH) || exit 1; \
	done

docs: $(STAMP)  ## the documentation as a site in site/; a link to nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV)
