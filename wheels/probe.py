"""Runs inside an installed fastlstm with NumPy and nothing else: python probe.py TESTS [--isa ISA] [--result FILE].

Every golden case of the folder TESTS (answers of Keras) goes forward and backward. Exits with 1 and says why where a number is
off, or where another instruction set runs than ISA, which by default is what NumPy finds in the processor. FILE gets a JSON with
what ran and how far it was off, and a digest of the bits of each case, so that processors can be compared. Used by
check_wheel.py, natively and in emulators, and by cibuildwheel.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the bits of arrays by name; a NaN counts as one, whatever its sign and payload."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(np.where(np.isnan(array), np.array(np.nan, array.dtype), array).tobytes())
    return sha.hexdigest()


def worst(case: Any, got: dict[str, np.ndarray], distance: Any) -> float:
    return max(distance(array, case.arrays[name]) for name, array in got.items())


def run_case(golden: Any, case: Any) -> tuple[dict[str, Any], list[str]]:
    """What one case gave, and what is wrong with it."""
    forward, backward = golden.forward(case), golden.gradients(case)
    wrong = golden.mismatches(case, forward, golden.TOLERANCE) + golden.mismatches(case, backward, golden.GRADIENT_TOLERANCE)
    layers = golden.recurrent_layers(case, golden.make_layer(case))
    # An LSTMCell has no choice of kernels: it is one step of its own.
    kernels = sorted({layer.explain(case.arrays["x0"]).kernel for layer in layers if hasattr(layer, "explain")} or {"cell"})
    result = {
        "kernels": kernels,
        "dtype": case.dtype,
        "forward": digest(forward),
        "gradient": digest(backward),
        "off": worst(case, forward, golden.distance),
        "gradient_off": worst(case, backward, golden.distance),
    }
    return result, [f"{case.family} {case}: {text}" for text in wrong]


def isa_by_numpy() -> str:
    """The instruction set that this processor calls for, by NumPy's account of it: another program's cpuid than ours."""
    inner = importlib.import_module(f"numpy.{'_core' if hasattr(np, '_core') else 'core'}._multiarray_umath")
    features = {name for name, there in inner.__cpu_features__.items() if there}
    if {"AVX512F", "AVX512DQ", "AVX512BW", "AVX512VL"} <= features or "AVX512_SKX" in features:
        return "avx512"
    if {"AVX2", "FMA3"} <= features:
        return "avx2"
    return "neon" if "ASIMD" in features and sys.maxsize > 2**32 else "generic"


def installation_faults(tests: Path, isa: str) -> list[str]:
    """What is wrong before anything is computed: another fastlstm than the installed one, other packages, the instruction set."""
    faults, here, config = [], Path(fastlstm.__file__).resolve(), fastlstm.config()
    if here == tests.resolve().parent / "fastlstm" / "__init__.py":
        faults.append(f"this is the fastlstm of the source folder, {here}, not an installed one")
    if config["isa"] != isa:
        faults.append(f"the instruction set is {config['isa']}, expected {isa}; available: {config['isa_available']}")
    if others := [name for name in ("scipy", "h5py", "ml_dtypes", "tqdm") if importlib.util.find_spec(name)]:
        faults.append(f"{', '.join(others)}: installed besides NumPy")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the golden cases on an installed fastlstm.")
    parser.add_argument("tests", type=Path, help="the folder tests/ of the sources")
    parser.add_argument("--isa", help="the instruction set that must be chosen; by default what NumPy finds")
    parser.add_argument("--result", type=Path, help="where a JSON with the results goes")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.tests))
    import golden_cases as golden

    start, cases = time.perf_counter(), {}
    faults = installation_faults(arguments.tests, arguments.isa or isa_by_numpy())
    for family in golden.FAMILIES:
        for case in golden.load(family):
            cases[f"{family} {case.id}"], wrong = run_case(golden, case)
            faults += wrong
    summary = {
        "isa": fastlstm.config()["isa"],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "fastlstm": importlib.metadata.version("fastlstm"),
        "seconds": time.perf_counter() - start,
        "cases": cases,
    }
    if arguments.result:
        arguments.result.write_text(json.dumps(summary))
    if faults:
        sys.exit("\n".join(faults))
    print(f"{len(cases)} golden cases on {summary['isa']} ({summary['machine']}), Python {summary['python']}: as they must be")


if __name__ == "__main__":
    main()
