# The front door. Every target first sets up .venv (torch, the extension, the tools) where it is missing or out of date,
# so on a fresh machine `make demo` and `make test` are all there is to know. It needs python3 >= 3.10; with a C++
# compiler the extension is built, without one the plain PyTorch implementation serves.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
# A pinned torch: on Linux the newest one from PyPI also brings some GB of CUDA libraries. Other choices:
#   make test TORCH=torch==2.10.0        make test TORCH="torch --index-url URL_OF_A_PYTORCH_WHEEL_INDEX"
TORCH ?= torch==2.13.0
# What is compiled beside the portable kernels: those for this machine. What goes to others has all of them.
export TORCHDET_INSTRUCTION_SETS ?= native
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
TUNE_ARGS ?=
PACKAGES_ARGS ?=

BIN := $(VENV)/bin
RUN := $(BIN)/python
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' 2>/dev/null)
OTHER_CXX_SOURCES := $(wildcard $(addprefix tests/*emulation/*., cpp h) $(addprefix tests/cuda_runtime/*., cpp h) tests/sanitize/*.cpp bench/*.cpp tools/*.h tools/sass_model/host/* tools/gpu/*.c*)
PY_SOURCES := setup.py torchdet tests bench docs examples tools
MAX_LINES := 400

.PHONY: help setup demo docs docs-serve test test-reference test-all-capabilities test-cuda-emulation test-arm fuzz sanitize cuda-check cuda-model instructions tune lint lint-python lint-cpp lint-types lint-length format \
        bench bench-results accuracy exactness device-objects gpu gpu-core gpu-check gpu-profile wheel wheels versions test-packages clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environment -------------------------------------------------------------------------------

setup: $(VENV)/.installed ## make .venv with torch, torchdet and the tools

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "torchdet needs Python 3.10 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "python3 cannot make virtual environments here; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet numpy ninja pybind11 'setuptools>=77'
	@touch $@

# What the examples need, and the package without its extension.
$(VENV)/.examples: $(VENV)/.created pyproject.toml
	TORCHDET_EXTENSION=0 $(BIN)/pip install --quiet --no-build-isolation -e '.[examples]'
	@touch $@

# Another choice calls for another run.
$(VENV)/.instruction_sets: $(VENV)/.created FORCE
	@echo '$(TORCHDET_INSTRUCTION_SETS)' | cmp --quiet - $@ || echo '$(TORCHDET_INSTRUCTION_SETS)' >$@
.PHONY: FORCE

# Editable, so Python sources are always current; only what is compiled, or names a requirement, calls for another run.
# The extension is built when there are a compiler and Python's headers; TORCHDET_EXTENSION=0 in the environment says no.
$(VENV)/.installed: $(VENV)/.created $(VENV)/.instruction_sets pyproject.toml setup.py $(CXX_SOURCES)
	@if ! command -v "$${CXX:-c++}" >/dev/null; then \
	  echo "No C++ compiler found: torchdet is installed without its extension."; export TORCHDET_EXTENSION=0; \
	elif ! $(RUN) -c 'import os, sys, sysconfig; \
	    sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'; then \
	  echo "Python.h not found (on Debian or Ubuntu: apt install python3-dev):" \
	       "torchdet is installed without its extension."; export TORCHDET_EXTENSION=0; \
	fi; \
	MAX_JOBS=$${MAX_JOBS:-$(JOBS)} $(RUN) tools/show_build.py build/install.log \
	    $(BIN)/pip install --verbose --no-build-isolation -e '.[test,examples,dev]' \
	  || { echo "If the extension does not compile here: TORCHDET_EXTENSION=0 make ..."; exit 1; }
	@touch $@

# --- what users run ----------------------------------------------------------------------------

# The first pictures come before anything is compiled: where there is no extension yet, from plain PyTorch.
demo: $(VENV)/.examples ## the two original examples and a normalizing flow; figures go to docs/images
	$(if $(wildcard torchdet/_C*.so),,TORCHDET_EXTENSION=0) $(RUN) examples/determinant_squared.py $(DEMO_ARGS)
	@$(MAKE) --no-print-directory setup
	$(RUN) examples/digits_flow.py $(DEMO_ARGS)
	@echo "The pictures are in $(or $(lastword $(DEMO_ARGS)),docs/images): sine_cosine, determinant_squared, singular, digits_flow. Next, each in a minute or two:"
	@printf '  $(RUN) examples/%s.py\n' wave_function neo_hookean point_process optimal_design
	@echo "  $(BIN)/torchrun --nproc-per-node 2 examples/distributed.py"
	@echo "make docs makes a page of each."

# Pages that have not changed are not run again. DOCS_QUICK=1 gives the gallery's programs arguments with which they
# take seconds, and numbers that mean nothing. jax and tensorflow have a column in docs/comparison.md where they are.
DOCS_QUICK ?=
docs: $(VENV)/.docs ## the documentation site, every block of code run; build/site
	TORCHDET_DOCS_QUICK=$(DOCS_QUICK) $(RUN) -m sphinx --fail-on-warning --keep-going -q -b html docs build/site \
	  2> >(grep -v -e IPKernelApp -e '^$$' >&2)
	@echo "wrote build/site/index.html"

docs-serve: docs ## the site at http://localhost:8000
	$(RUN) -m http.server --directory build/site 8000

$(VENV)/.docs: $(VENV)/.installed docs/requirements.txt
	$(BIN)/pip install --quiet -r docs/requirements.txt
	@touch $@

exactness: $(VENV)/.installed ## the README's table: torch's answer, torchdet's answer, the truth
	$(RUN) examples/exactness.py

# Emulators and sanitizers have targets of their own.
OWN_TARGETS := arm sanitizers cuda_sanitizers cuda_emulation cuda_cluster cuda_large
# One torch thread in each worker, or the workers would fight for the cores; tests of threading set their own number.
test: $(VENV)/.installed ## the test suite
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) $(OWN_TARGETS:%=--ignore=tests/test_%.py) $(PYTEST_ARGS)

# Without the files that know nothing of which implementation serves.
WITHOUT_IMPLEMENTATION := oracles support tools sass_model sass_predictions install bench bench_checks bench_results cuda_banks cuda_faults cuda_runtime gpu_run $(OWN_TARGETS)
test-reference: $(VENV)/.installed ## the test suite on the plain PyTorch implementation
	TORCHDET_EXTENSION=0 OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) \
	  $(WITHOUT_IMPLEMENTATION:%=--ignore=tests/test_%.py) $(PYTEST_ARGS)

# The widest instruction set is what all other tests run on. All of them are compiled, and those run that the processor has.
CAPABILITY_TESTS ?= tests/test_values.py tests/test_gradients.py tests/test_second_derivatives.py \
  tests/test_slogdet_derivatives.py tests/test_frexp.py tests/test_jets.py tests/test_kept.py tests/test_gradient_and_inverse.py tests/test_identities.py
test-all-capabilities: ## the suite's numerical part on each instruction set that the processor has, all compiled
	@$(MAKE) --no-print-directory setup TORCHDET_INSTRUCTION_SETS=all
	sets=$$($(RUN) -c 'import torchdet; info = torchdet._C.build_info(); names = info["instruction_sets"]; \
	  print(*names[names.index(info["active_instruction_set"]):])'); \
	for name in $$sets; do \
	  echo "TORCHDET_CPU_CAPABILITY=$$name"; \
	  TORCHDET_CPU_CAPABILITY=$$name OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) $(CAPABILITY_TESTS) $(PYTEST_ARGS); \
	done

# Every kernel against exact arithmetic, and what only an emulation shows. Other files run on the kernels too, in more time:
# EMULATION_TESTS="tests/test_gradients.py ..".
EMULATION_TESTS ?= tests/test_cuda_emulation.py tests/test_cuda_late_columns.py tests/test_cuda_cluster.py tests/test_cuda_large.py \
  tests/test_values.py tests/test_slogdet_hvp.py
test-cuda-emulation: $(VENV)/.installed ## the CUDA kernels, run on the host
	TORCHDET_EXTENSION=0 TORCHDET_TEST_EMULATION=cuda OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) \
	  $(EMULATION_TESTS) $(PYTEST_ARGS)

# Needs a compiler and an emulator; says which packages of Debian have them where they are missing.
ARM_TESTS ?= tests/test_arm.py tests/test_values.py tests/test_kept.py
test-arm: $(VENV)/.installed ## the suite's numerical part on the CPU kernels, compiled for Arm and run by QEMU
	TORCHDET_EXTENSION=0 TORCHDET_TEST_EMULATION=arm OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) \
	  $(ARM_TESTS) $(PYTEST_ARGS)

# Random calls and programs against oracles, until stopped or for MINUTES; SEED as a finding prints it.
fuzz: $(VENV)/.installed ## search for wrong answers and crashes; findings go to tests/fuzz/corpus
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(RUN) -m fuzz $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(FUZZ_ARGS)

# Needs a compiler with its sanitizers, and no extension: the kernels are compiled in programs of their own.
sanitize: $(VENV)/.installed ## the kernels under the sanitizers of memory, undefined behaviour and (CPU) threads
	TORCHDET_EXTENSION=0 OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) tests/test_sanitizers.py tests/test_cuda_sanitizers.py $(PYTEST_ARGS)

# MINUTES are nominal: they set how many matrices are tried. TORCHDET_EXTENSION=0 for the plain PyTorch implementation.
accuracy: $(VENV)/.installed ## search for the largest errors; writes docs/accuracy.md and tests/worst_cases.json
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(RUN) -m accuracy --minutes $(or $(MINUTES),30) --seed $(or $(SEED),0) --jobs $(JOBS) $(ACCURACY_ARGS)

bench: $(VENV)/.installed ## timings against torch.linalg; wants an idle machine; BENCH_ARGS="--help" for the choices
	$(RUN) -m bench $(BENCH_ARGS)

# One file of bench/results for each run; what is quoted is written anew from them. BENCH_ARGS="--quick" only tries it.
bench-results: $(VENV)/.installed ## measure all that README and docs quote (about 32 minutes), and write their tables
	$(RUN) -m bench.publish $(BENCH_ARGS)

# --- checks ------------------------------------------------------------------------------------

lint: lint-python lint-cpp lint-types lint-length ## ruff, clang-format, mypy, length of files

lint-python: $(VENV)/.installed
	$(BIN)/ruff check $(PY_SOURCES)
	$(BIN)/ruff format --check $(PY_SOURCES)

lint-cpp: $(VENV)/.installed
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES) $(OTHER_CXX_SOURCES)

lint-types: $(VENV)/.installed
	$(BIN)/mypy

lint-length:
	@find $(PY_SOURCES) csrc \( -name '*.py' -o -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) \
	  -exec awk -v most=$(MAX_LINES) 'END {if (NR > most) print FILENAME ": " NR " lines, at most " most}' {} \; \
	  | { ! grep .; }

format: $(VENV)/.installed ## apply ruff and clang-format
	$(BIN)/ruff check --fix $(PY_SOURCES)
	$(BIN)/ruff format $(PY_SOURCES)
	$(BIN)/clang-format -i $(CXX_SOURCES) $(OTHER_CXX_SOURCES)

cuda-check: $(VENV)/.installed ## compile every CUDA kernel with nvcc; registers per kernel; needs no GPU
	$(RUN) -m tools.cuda_check --jobs $(JOBS) $(CUDA_CHECK_ARGS)

# From the machine code that cuda-check has compiled, which is compiled where it has not. CUDA_MODEL_ARGS=--update writes
# the record after a change that is meant.
cuda-model: $(VENV)/.installed ## predict the speed of CUDA kernels by a model, compare with the record; needs no GPU
	$(RUN) -m tools.sass_model --jobs $(JOBS) $(CUDA_MODEL_ARGS)

# On one thread of an idle machine, in a quarter of an hour; TUNE_ARGS="--only row_group" for one constant, --busy where
# other programs run meanwhile.
tune: $(VENV)/.installed ## measure the constants of csrc/tuning.h and csrc/select.h anew; writes bench/tuning/<processor>.json
	$(RUN) -m tools.tune $(TUNE_ARGS)

instructions: $(VENV)/.installed ## count the instructions of CPU kernels and compare them with the record
	$(RUN) tools/instruction_counts.py

# What needs a GPU: tools/gpu, in stages with a time each, with the Python and the torch that are there; nothing is
# installed. A machine without a GPU compiles beforehand; build/device then travels with the sources, and linking takes
# half a minute. Where nothing has travelled, all is compiled there. A second run does what the first one has left out.
DEVICE_ARCHITECTURE ?= 9.0
DEVICE_INSTRUCTION_SETS ?= portable
GPU_PYTHON ?= $(PYTHON)
GPU_OUT ?= out/gpu
GPU_ARGS ?=

device-objects: $(VENV)/.installed ## compile for a GPU that is elsewhere; needs nvcc; fills build/device
	$(RUN) -m tools.gpu.objects --jobs $(JOBS) \
	  --architecture $(DEVICE_ARCHITECTURE) --instruction-sets $(DEVICE_INSTRUCTION_SETS)

# Each of them whatever becomes of the others.
gpu: ## on a machine with a GPU: gpu-core, gpu-check and gpu-profile
	$(MAKE) --no-print-directory -k gpu-core gpu-check gpu-profile

gpu-core: ## on a GPU: build, first look at all kernels, single instructions, times
gpu-check: ## on a GPU: tests, compute-sanitizer
gpu-profile: ## on a GPU: hardware counters, what "large" consists of, noisy times again
gpu-core gpu-check gpu-profile: gpu-%:
	$(GPU_PYTHON) -m tools.gpu --stages $* --out $(GPU_OUT) $(GPU_ARGS)

# The wheel of this Python. It has all instruction sets, and is linked of the objects that the editable install has
# compiled, and of the others. auditwheel gives it the tag of the oldest glibc that has the symbols it asks for. It is
# then used where neither the sources nor the editable install can stand in for a file that it lacks, nor .venv for a
# requirement that it does not name. That the source archive would build as well is checked by what is in it.
# TORCHDET_CUDA=1 for the wheel with CUDA kernels.
wheel: $(VENV)/.installed ## build a wheel in dist, check what it needs of other libraries, and check it in a new environment
	rm -rf build/wheel dist && mkdir -p build/wheel/empty build/wheel/sdist
	TORCHDET_INSTRUCTION_SETS=all MAX_JOBS=$${MAX_JOBS:-$(JOBS)} $(RUN) tools/show_build.py build/wheel/build.log \
	  $(RUN) -m build --no-isolation --sdist --wheel --outdir build/wheel/built .
	tar -xzf build/wheel/built/*.tar.gz -C build/wheel/sdist --strip-components 1
	diff -r csrc build/wheel/sdist/csrc
	diff -r -x '*.so' -x __pycache__ torchdet build/wheel/sdist/torchdet
ifeq ($(shell uname), Linux)
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --plat auto --exclude 'libtorch*.so' --exclude 'libc10*.so' \
	  --wheel-dir dist build/wheel/built/*.whl
	$(RUN) tools/check_wheel.py dist/*.whl
else
	mkdir -p dist && cp build/wheel/built/*.whl dist
endif
	@ls -lh dist
	$(RUN) -m venv build/wheel/venv
	build/wheel/venv/bin/pip install --quiet $(TORCH) dist/*.whl
	cd build/wheel/empty && ../venv/bin/python -m torchdet && ../venv/bin/python -m torchdet check

# What pyproject.toml says under tool.cibuildwheel; variables of the environment, CIBW_*, say otherwise.
wheels: ## wheels for every Python on this platform, by cibuildwheel (on Linux it needs Docker); in dist
	$(PYTHON) -m venv build/cibuildwheel
	build/cibuildwheel/bin/pip install --quiet cibuildwheel==4.3.5
	build/cibuildwheel/bin/cibuildwheel --output-dir dist $(CIBUILDWHEEL_ARGS)

# Some GB of downloads and up to 6 GB of disk for each version, one at a time. VERSIONS="2.12.0" tries one of them again.
VERSIONS ?= 2.10.0 2.12.0 newest
versions: wheel ## the wheel with the oldest, another and the newest torch; writes docs/versions.md
	$(RUN) tools/versions.py --wheel dist/*.whl --versions $(VERSIONS)

# Downloads half a GB. PACKAGES_ARGS="--only kornia" tries one of them again.
test-packages: $(VENV)/.installed ## tests and models of packages from PyPI on torchdet; writes docs/packages.md
	$(RUN) -m tools.packages --torch "$(TORCH)" $(PACKAGES_ARGS)

clean: ## remove what is built, but not .venv
	rm -rf build dist *.egg-info torchdet/*.so $(VENV)/.installed
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
