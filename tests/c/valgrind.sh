#!/bin/sh
# The extension and the C library under valgrind, as compiled for speed, for `make sanitize`: valgrind.sh PYTHON. Sanitizers
# change what the compiler makes of a loop; valgrind reads what it made. On AVX2: it knows no AVX-512. Exit code 1 where memory
# is misused.
command -v valgrind >/dev/null 2>&1 || { echo "valgrind is not installed: nothing was checked"; exit 0; }
export FASTLSTM_ISA="${FASTLSTM_ISA:-avx2}"

FASTLSTM_TEST_CC=gcc FASTLSTM_TEST_PREFIX="valgrind -q --error-exitcode=9" \
  "$1" -m pytest -q tests/test_c_library.py -k "has_the_bits_of_the_extension and not other" || exit 1

# What Python, NumPy and the dynamic loader do at their start is not ours: errors whose innermost frames hold our module count.
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
PYTHONMALLOC=malloc valgrind --log-file="$log" --leak-check=no "$1" tests/c/valgrind_run.py || exit 1
if grep -q "fastlstm/_core" "$log"; then
  cat "$log"
  echo "valgrind found misuse of memory in fastlstm._core"
  exit 1
fi
echo "valgrind: nothing in fastlstm._core"
