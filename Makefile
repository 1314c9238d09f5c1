# Every target sets up what it needs in .venv, but `make gpu`, which takes $(PYTHON) as it is and installs nothing.
# `make demo` trains on real data; `make test` passes the tests.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
VENV := .venv
BIN := $(VENV)/bin
# One thread a process, and a process more than there are cores: some tests wait for what they started.
PROCESSES := $(shell expr $$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile
# CUDA is compiled where there is a card for it; LYRA_BUILD_CUDA=1 compiles it anywhere.
export LYRA_BUILD_CUDA ?= $(if $(shell command -v nvidia-smi),,0)
# Python compiles what it imports and keeps that, if it may: most of what is installed is never imported.
INSTALL := $(BIN)/python -m pip install -q $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test test-full bench gpu check sanitize static wheel clean

help:
	@echo "make demo       train on 20,000 GB1 double mutants, predict 25,000 others: demo/report.html"
	@echo "make test       the tests, some minutes          make test-full  the whole matrix, much longer"
	@echo "make bench      speed and memory: benchmarks/results"
	@echo "make gpu        on a machine with a card, with the torch of its PYTHON: tests, sanitizer, times, all in 8 minutes;"
	@echo "                GPU='--only ops layers' some of it, GPU=--dry-run all of it on the CPU with tiny sizes"
	@echo "make check      format, lint, types              make sanitize   native code under ASan, UBSan, TSan"
	@echo "make static     what the GPU kernels cost, without a GPU, and whether every variant of them compiles"
	@echo "make wheel      a wheel in dist/, installed and tried in an environment of its own"

# The tools first, then the package with its native code: building against the installed torch.
$(VENV)/tools: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) "setuptools>=77" wheel $(TORCH)
	case "$$(uname -sm)" in "Linux x86_64") $(INSTALL) $(TRITON);; esac
	touch $@

$(VENV)/app: $(VENV)/tools setup.py $(wildcard build_cuda.py) $(NATIVE)
	$(INSTALL) --no-build-isolation -e ".[app]"
	touch $@

$(VENV)/all: $(VENV)/tools setup.py $(wildcard build_cuda.py) $(NATIVE)
	$(INSTALL) --no-build-isolation -e ".[all]"
	touch $(VENV)/app $@

demo: $(VENV)/app
	$(BIN)/lyra demo --out demo --overwrite

test: $(VENV)/all
	$(PYTEST) -m "not full"

test-full: $(VENV)/all
	$(PYTEST)

bench: $(VENV)/all
	$(BIN)/python -m benchmarks

gpu:
	$(PYTHON) -m benchmarks.gpu $(GPU)

check: $(VENV)/all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

sanitize: $(VENV)/all
	$(BIN)/python -m tests.cpu.sanitize
	$(BIN)/python -m tests.emulation.sanitize

static: $(VENV)/all
	$(BIN)/python -m benchmarks.gpu_static

wheel: $(VENV)/all
	$(BIN)/python tools/check_wheel.py

clean:
	rm -rf build dist *.egg-info $(VENV) lyra_kernels/*.so
