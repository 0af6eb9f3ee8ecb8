# `make demo` and `make test` need Python >= 3.10 and a package index, nothing else.
PYTHON  ?= python3
VENV    ?= .venv
BUNDLE  ?= tabletop
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml constraints.txt
NATIVE  := $(shell find kernels -name '*.c' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h')

.DEFAULT_GOAL := help
.PHONY: help demo test lint types contracts unit native test-slow test-matrix test-aarch64 test-gpu test-tensorrt cuda-check format clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "florence-edge needs Python >= 3.10; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(SOURCES) | $(BIN)/python
	$(PIP) -e '.[onnx]'
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.runtime ## every task on the bundled model and picture; writes demo/
	$(BIN)/florence-edge demo demo

test: lint types contracts native unit ## lint, types, import contracts, native CPU build, all fast CPU tests

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(NATIVE)

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/mypy examples/*.py
	MYPYPATH=kernels $(BIN)/mypy -p measure

contracts: $(VENV)/.dev
	PYTHONPATH=sdk:training:converters:benchmarks $(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto

native: ## CPU twins of the kernels, built and tested where cmake and a C++ compiler are found
	@if command -v cmake >/dev/null && command -v c++ >/dev/null; then \
	  cmake -S . -B build/native -DCMAKE_BUILD_TYPE=Release -DFLORENCE_CUDA=OFF >build-native.log 2>&1 \
	    && cmake --build build/native --parallel >>build-native.log 2>&1 \
	    && ctest --test-dir build/native --output-on-failure \
	    || { cat build-native.log; exit 1; }; rm -f build-native.log; \
	else echo "native build skipped: cmake or a C++ compiler was not found"; fi

test-slow: $(VENV)/.dev ## the tests that take minutes: true base size, 10,000 parses a task
	$(BIN)/python -m pytest -m slow -n auto

cuda-check: $(VENV)/.dev ## compile every CUDA kernel for every architecture, without a GPU
	cmake -S . -B build/cuda-check -DFLORENCE_CUDA=ON -DCMAKE_BUILD_TYPE=Release
	cmake --build build/cuda-check --parallel
	ctest --test-dir build/cuda-check --output-on-failure
	$(BIN)/python -m pytest -m slow tests/kernels/test_cuda_compiles.py

# Where CUDA installs nvcc and compute-sanitizer; pip compiles pycuda with the nvcc that it finds.
test-gpu test-tensorrt: export PATH := $(PATH):/usr/local/cuda/bin

test-gpu: $(VENV)/.dev ## on a machine with a CUDA GPU: build, compare with the CPU, compute-sanitizer, measure (docs/gpu.md)
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU: nvidia-smi must show one, and a driver for CUDA {torch.version.cuda}")'
	cmake -S . -B build/gpu -DFLORENCE_CUDA=ON -DCMAKE_BUILD_TYPE=Release -DCMAKE_CUDA_ARCHITECTURES=native
	cmake --build build/gpu --parallel
	ctest --test-dir build/gpu --output-on-failure
	compute-sanitizer --error-exitcode 1 --tool memcheck build/gpu/kernels/tests/twins_agree_cuda
	compute-sanitizer --error-exitcode 1 --tool racecheck build/gpu/kernels/tests/twins_agree_cuda
	$(BIN)/python -m pytest -m 'gpu or nvinfer_headers' tests/kernels tests/training/test_backend_gpu.py
	PYTHONPATH=kernels $(BIN)/python -m measure

test-tensorrt: ## on a Jetson or desktop with TensorRT: build engines, gate, compare, time; writes tensorrt-acceptance.json
	$(PYTHON) -m venv --system-site-packages $(VENV)-tensorrt
	$(VENV)-tensorrt/bin/python -m pip install --quiet -c constraints.txt -e '.[build]' $(if $(TENSORRT),'$(TENSORRT)')
	cmake -S . -B build/gpu -DFLORENCE_CUDA=ON -DCMAKE_BUILD_TYPE=Release -DCMAKE_CUDA_ARCHITECTURES=native
	cmake --build build/gpu --parallel
	ctest --test-dir build/gpu --output-on-failure
	$(VENV)-tensorrt/bin/python -m florence_convert.build.acceptance $(BUNDLE) --out tensorrt-acceptance.json $(ACCEPTANCE)

test-matrix: $(VENV)/.dev ## the run time on every Python 3.10-3.13 that is found, each in an environment of its own
	$(BIN)/python tests/support/matrix.py

test-aarch64: $(VENV)/.dev ## the run time and the CPU twins on aarch64 in QEMU; what it needs is at the head of the script
	tests/support/aarch64.sh $(BIN)/python

format: $(VENV)/.dev ## rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

clean: ## remove everything that make made
	rm -rf $(VENV) .venv-* build demo runs
