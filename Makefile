# Makefile: from a bare clone to a demo, the tests, the linters and the benchmarks. Needs Python >= 3.11 and a C compiler.
#
# Everything is installed into .venv by pip. Stamp files inside .venv say what is there, so that a second run starts at once;
# the compiled core is rebuilt when a header, a .pyx or a .c file changes. PYTHON=... names another interpreter for .venv.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

GENERATED := $(patsubst %.pyx,%.c,$(wildcard pyx/*.pyx))
C_FILES := $(filter-out $(GENERATED),$(wildcard include/fastlstm/*.h pyx/*.h pyx/*.c))
C_EXAMPLES := $(wildcard examples/c/*.c tests/c/*.c tests/c/*.h)
CUDA_FILES := $(wildcard fastlstm/backends/gpu/*.cu*) tests/gpu/cpu_cuda.h
CYTHON_FILES := $(wildcard pyx/*.pyx pyx/*.pxd pyx/*.pxi)
CYTHON_EXAMPLES := fastlstm/fastlstm.pxd tests/c/voice.pyx

# The adapters in benchmarks/rivals; each has its pinned packages in benchmarks/rivals/requirements.
RIVALS := onnxruntime openvino litert torch keras_tensorflow keras_jax keras_torch

# What an activated shell may have left behind must not reach into .venv.
unexport PYTHONPATH
unexport PYTHONHOME

.NOTPARALLEL:
.SECONDARY:
.PHONY: help demo example-c test test-packages sanitize test-gpu-compile test-gpu sanitize-gpu bench-gpu \
  lint lint-style lint-format lint-types lint-spelling lint-c lint-cython format bench bench-rivals clean
.PHONY: wheels check-wheels test-aarch64

help:
	@echo "make demo    classify the speakers in examples/ with a model that Keras trained"
	@echo "make test    run all tests             (PYTEST_ARGS=... goes to pytest)"
	@echo "make test-packages  open and run the models that some packages bring along, installed into .packages/"
	@echo "make example-c  the same model exported as C, compiled and run   (CC=... names the compiler)"
	@echo "make sanitize   run the tests of the C library under ASan and UBSan, and the extension under valgrind"
	@echo "make test-gpu-compile  compile the CUDA kernels with NVRTC (no GPU needed), in .venv-gpu"
	@echo "make test-gpu    the tests that need a GPU; sanitize-gpu: small ones under compute-sanitizer"
	@echo "make lint    check style, types, spelling, C formatting"
	@echo "make format  let the formatters rewrite the files"
	@echo "make bench   time the workloads of benchmarks/cases.py   (BENCH_ARGS=... goes to bench.py)"
	@echo "make bench-rivals  time them beside other libraries, each in .venv-rivals/   (BENCH_ARGS=... goes to bench_rivals.py)"
	@echo "make bench-gpu  time the GPU path beside cuDNN and Keras, where they are installed   (BENCH_ARGS=...)"
	@echo "make wheels  build the wheels for Linux and the sdist into dist/   (WHEELS_ARGS=... goes to wheels/build.py)"
	@echo "make check-wheels  build them twice, compare them, install them and run them on every Python and processor to be had"
	@echo "make test-aarch64  run the tests of the kernels on aarch64 in an emulator   (ARM_ARGS=... goes to wheels/test_aarch64.py)"
	@echo "make clean   delete everything that was built or installed here"

demo: $(VENV)/.built $(VENV)/.extra-cli
	$(BIN)/fastlstm predict examples/speakers.keras examples/speakers.npz

# The flags: those that give the bits of the Python package, on this machine's instruction set.
EXAMPLE := build/example-c
example-c: $(VENV)/.built $(VENV)/.extra-cli
	mkdir -p $(EXAMPLE)
	$(BIN)/fastlstm export-c examples/speakers.keras -o $(EXAMPLE)/speakers.h
	$(BIN)/python examples/c/speakers_data.py $(EXAMPLE)/speakers.bin
	$(CC) -std=c11 -O3 -march=native -ffp-contract=off -Wall -Wextra -Wconversion -Werror -Iinclude -I$(EXAMPLE) \
	  examples/c/speakers.c -o $(EXAMPLE)/speakers -lm
	$(EXAMPLE)/speakers $(EXAMPLE)/speakers.bin

# The instruction sets and GEMMs other than the default ones are run by the tests themselves, each in a process of its own.
test: $(VENV)/.built $(VENV)/.extra-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Installs the packages without what they depend on: only their files are read.
test-packages: $(VENV)/.built $(VENV)/.extra-test .packages/.installed
	FASTLSTM_TEST_PACKAGES="$(CURDIR)/.packages" $(BIN)/python -m pytest tests/packages $(PYTEST_ARGS)

# Every error ends the program that made it.
SANITIZER := -g -fsanitize=address,undefined -fno-sanitize-recover=all
sanitize: $(VENV)/.built $(VENV)/.extra-test
	FASTLSTM_TEST_CC=gcc FASTLSTM_TEST_CFLAGS="$(SANITIZER)" FASTLSTM_TEST_32_BITS=1 \
	  $(BIN)/python -m pytest tests/test_c_library.py tests/test_c_misuse.py tests/test_export_c.py tests/test_example_c.py
	tests/c/valgrind.sh $(BIN)/python

# A virtual environment of its own: CuPy and NVRTC are large, and nothing else needs them. GPU_PYTHON=... names an interpreter that has
# them already, and pytest, hypothesis, Cython, setuptools 77: then nothing is installed, and the core is built in place.
GPU_PYTHON ?=
GPU := $(or $(GPU_PYTHON),.venv-gpu/bin/python)
GPU_READY := $(if $(GPU_PYTHON),build/.for-gpu,.venv-gpu/.installed)
test-gpu-compile: $(GPU_READY)
	$(GPU) -m pytest tests/gpu -m gpu_compile $(PYTEST_ARGS)

test-gpu: $(GPU_READY)
	$(GPU) -m pytest tests/gpu -m gpu $(PYTEST_ARGS)

# A few small cases: under these tools a kernel takes a hundred times as long.
SANITIZED = -m gpu -k "test_every_way_on_the_device"
sanitize-gpu: $(GPU_READY)
	@command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed: it comes with the CUDA toolkit" >&2; exit 1; }
	compute-sanitizer --tool memcheck --error-exitcode 1 $(GPU) -m pytest tests/gpu $(SANITIZED)
	compute-sanitizer --tool racecheck --error-exitcode 1 $(GPU) -m pytest tests/gpu $(SANITIZED)

bench-gpu: $(GPU_READY)
	$(GPU) -m benchmarks.bench_gpu $(BENCH_ARGS)

# One target a tool, so that `make --keep-going lint` tells everything at once.
lint: lint-style lint-format lint-types lint-spelling lint-c lint-cython

lint-style: $(VENV)/.extra-lint
	$(BIN)/ruff check

lint-format: $(VENV)/.extra-lint
	$(BIN)/ruff format --check

lint-types: $(VENV)/.extra-lint
	$(BIN)/mypy

lint-spelling: $(VENV)/.extra-lint
	$(BIN)/codespell

lint-c: $(VENV)/.extra-lint
	$(BIN)/clang-format --dry-run -Werror $(C_FILES) $(C_EXAMPLES) $(CUDA_FILES)

# cython-lint starts pycodestyle by its bare name.
lint-cython: $(VENV)/.extra-lint
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint $(CYTHON_FILES) $(CYTHON_EXAMPLES)

format: $(VENV)/.extra-lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(C_FILES) $(C_EXAMPLES) $(CUDA_FILES)

bench: $(VENV)/.built $(VENV)/.extra-test
	$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

# A rival that cannot be installed does not stop the others; the table says that it is missing.
bench-rivals: $(VENV)/.built $(VENV)/.extra-test $(RIVALS:%=install-%)
	$(BIN)/python -m benchmarks.bench_rivals $(BENCH_ARGS)

install-%: $(VENV)/.python
	@$(MAKE) --no-print-directory .venv-rivals/$*/.installed || echo "$* could not be installed" >&2

# wheels/ has an environment of its own: pinned tools, so that equal sources give equal wheels.
wheels: .venv-wheels/.installed
	.venv-wheels/bin/python wheels/build.py $(WHEELS_ARGS)

check-wheels: wheels
	.venv-wheels/bin/python wheels/check_build.py
	.venv-wheels/bin/python wheels/check_wheel.py dist/*.whl

test-aarch64: .venv-wheels/.installed
	.venv-wheels/bin/python wheels/test_aarch64.py $(ARM_ARGS)

clean:
	rm -rf $(VENV) .venv-gpu .venv-rivals .venv-wheels .packages .cache-aarch64 build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f fastlstm/_core*.so $(GENERATED)
	find fastlstm tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- what the targets stand on ----------------------------------------------------------------------------------------
$(VENV)/.python:
	@for python in $(CANDIDATES); do \
	  if command -v "$$python" >/dev/null 2>&1 && "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV) || exit 1; \
	    touch $@; \
	    exit 0; \
	  fi; \
	done; \
	echo "fastlstm needs Python 3.11 or newer; looked for: $(CANDIDATES). Name one with 'make PYTHON=/path/to/python3 ...'" >&2; \
	exit 1

TOOLCHAIN = import os, shlex, shutil, sys, sysconfig; \
cc = shlex.split(os.environ.get('CC') or sysconfig.get_config_var('CC') or 'cc')[0]; \
header = os.path.join(sysconfig.get_path('include'), 'Python.h'); \
shutil.which(cc) or sys.exit('fastlstm needs a C compiler to build; looked for: ' + cc + '. Name one with CC=...'); \
os.path.exists(header) or sys.exit('fastlstm needs the headers of Python to build (package python3-dev); looked for: ' + header)

# The old core goes first: nothing may go on with kernels older than their sources.
$(VENV)/.built: $(VENV)/.python $(C_FILES) $(CYTHON_FILES) setup.py pyproject.toml
	@$(BIN)/python -c "$(TOOLCHAIN)"
	rm -f fastlstm/_core*.so
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --editable .
	touch $@

# One extra of pyproject.toml (cli, test, lint), without building the project again.
REQUIREMENTS = import tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print('\n'.join(project['dependencies'] + project['optional-dependencies']['$*']))

$(VENV)/.extra-%: $(VENV)/.python pyproject.toml
	$(BIN)/python -c "$(REQUIREMENTS)" > $@.txt
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --requirement $@.txt
	touch $@

# The project itself, with its core for this Python, the extra [gpu], what the tests need, and a compiler for CUDA source.
build/.for-gpu: $(C_FILES) $(CYTHON_FILES) setup.py pyproject.toml
	@mkdir -p $(@D)
	$(GPU_PYTHON) setup.py --quiet build_ext --inplace
	touch $@

.venv-gpu/.installed: $(VENV)/.python $(C_FILES) $(CYTHON_FILES) setup.py pyproject.toml
	$(BIN)/python -m venv --clear .venv-gpu
	.venv-gpu/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[gpu]' \
	  pytest hypothesis h5py tqdm ml_dtypes 'nvidia-cuda-nvrtc==13.*'
	touch $@

.venv-wheels/.installed: wheels/requirements.txt | $(VENV)/.python
	$(BIN)/python -m venv --clear $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --requirement $<
	touch $@

.venv-rivals/%/.installed: benchmarks/rivals/requirements/%.txt
	$(BIN)/python -m venv --clear $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --requirement $<
	touch $@

.packages/.installed: tests/packages/requirements.txt $(VENV)/.python
	rm -rf $(@D)
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --target $(@D) --requirement $<
	touch $@
