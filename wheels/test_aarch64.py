"""The tests of the kernels on aarch64: `make test-aarch64`, on an aarch64 machine or in qemu's user emulator on any other.

Builds the aarch64 wheel with zig, sets an aarch64 Python up in .cache-aarch64/ (emulation.py) and runs tests/ there, against
the wheel: all of KERNELS on the first processor, QUICK on the others. An emulated test takes ten to thirty times as long.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import archives
import build
import emulation
from targets import TARGETS

TESTS = build.ROOT / "tests"
CPUS = ("cortex-a53", "cortex-a72", "neoverse-n1")
# Golden data, vector functions, every tile remainder, the same bits in any company, gradients, threads.
KERNELS = (
    "test_golden.py",
    "test_vmath.py",
    "test_vmath_rows.py",
    "test_backends.py",
    "test_bitwise.py",
    "test_convlstm1d_bitwise.py",
    "test_convlstm1d_backends.py",
    "test_backward.py",
    "test_packed_matrix.py",
    "test_threads.py",
)
# Not in an emulator: these tests count the threads in /proc/self/task, where qemu has one of its own, and fork while threads are
# at work, which hangs in qemu's user mode.
NATIVE = ("test_num_threads.py",)
# One process: the compiled kernels on the golden cases, forward and backward, and the vector functions.
QUICK = (
    "test_golden.py::test_cpu",
    "test_golden.py::test_gradients",
    "test_vmath.py",
    "test_vmath_rows.py",
    "test_packed_matrix.py",
)


def prepare(folder: Path) -> tuple[emulation.Arm, Path]:
    """An aarch64 Python, and a folder with the wheel of these sources installed in it."""
    target = TARGETS["manylinux2014_aarch64"]
    date = archives.source_date(build.ROOT)
    wheel = build.build_wheel(target, build.build_sdist(folder, date), folder, date)
    arm = emulation.arm_python(Path(__file__).with_name("requirements-aarch64.txt"))
    site = folder / "wheel"
    emulation.pip_install_arm(arm, site, "--no-deps", wheel)
    return arm, site


def run_tests(arm: emulation.Arm, site: Path, cpu: str, tests: tuple[str, ...], options: list[str]) -> list[str]:
    """One pytest for each file: the lines that tell of failures, none where all passed."""
    failed = []
    environment = arm.environment(PYTHONPATH=os.pathsep.join([str(site), str(arm.site)]), CI="1")
    for test in tests:
        start = time.monotonic()
        command: list[str | Path] = [arm.interpreter(cpu), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
        command += [*options, test]
        # In tests/, where the folder of the sources does not come before the wheel.
        done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False)
        closing = (done.stdout.strip().splitlines() or ["no output"])[-1]
        print(f"{cpu}: {test}: {closing} [{time.monotonic() - start:.0f} s]", flush=True)
        if done.returncode != 0:
            print(done.stdout[-20000:] + done.stderr[-4000:], flush=True)
            failed.append(f"{cpu}: {test}: {closing}")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the tests of the kernels on aarch64.")
    parser.add_argument("--cpu", action="append", help=f"a processor of qemu; {', '.join(CPUS)} without one")
    parser.add_argument("--quick", action="store_true", help="the short selection on every processor")
    parser.add_argument("--test", action="append", help="these tests in place of the selections")
    arguments, options = parser.parse_known_args()
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        arm, site = prepare(Path(name))
        for number, cpu in enumerate(arguments.cpu or CPUS):
            selected: tuple[str, ...] = QUICK if number or arguments.quick else KERNELS
            if arm.qemu is None:
                selected += NATIVE
            failed += run_tests(arm, site, cpu, tuple(arguments.test or selected), options)
            if arm.qemu is None:
                break  # the machine's own processor is all there is
    if failed:
        sys.exit("\n".join(["failed:", *failed]))
    print("all passed")


if __name__ == "__main__":
    main()
