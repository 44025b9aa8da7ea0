#!/bin/sh
# A short run of the extension under valgrind, for `make sanitize`: valgrind.sh PYTHON. Exit code 1 where memory is misused.
#
# On AVX2: valgrind knows no AVX-512. What the interpreter and NumPy do at their start is not ours: only errors whose stack holds
# _core count.
command -v valgrind >/dev/null 2>&1 || { echo "valgrind is not installed: the extension was not checked"; exit 0; }
log=$(mktemp) || exit 1
trap 'rm -f "$log" "$log.txt"' EXIT
FASTLSTM_ISA=${FASTLSTM_ISA:-avx2} PYTHONMALLOC=malloc valgrind --log-file="$log" --num-callers=30 --leak-check=no \
  "$1" tests/c/valgrind_run.py || exit 1
python_core=$(grep -c "_core" "$log")
if [ "$python_core" -ne 0 ]; then
  cat "$log"
  echo "valgrind found misuse of memory below fastlstm._core"
  exit 1
fi
grep "ERROR SUMMARY" "$log"
echo "valgrind: nothing below fastlstm._core"
