"""What all tests share: the header line with instruction set and GEMM, the hypothesis profiles, the folder of extra data.

Environment: CI (any value) makes hypothesis derandomize; FASTLSTM_TEST_DATA names a folder of further test data.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# No deadline: the first example of a test pays for packing weights and for imports.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_report_header() -> list[str]:
    """Which kernels these tests are about to run."""
    try:
        import fastlstm
    except ImportError as error:
        raise pytest.UsageError(f"fastlstm cannot be imported, is it built? Run `make test`. The reason: {error}") from error
    config = fastlstm.config()
    available = ", ".join(config["isa_available"]) or "none"
    data = os.environ.get("FASTLSTM_TEST_DATA") or "not set"
    return [
        f"fastlstm: ISA {config['isa']} (available: {available}), GEMM {config['gemm']}, BLAS {config['blas']}",
        f"FASTLSTM_TEST_DATA: {data}",
    ]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_as_python_has_it() -> Iterator[None]:
    """A shell starts what runs in the background with SIGINT ignored; Python, and the processes of the tests, leave it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def extra_data() -> Callable[[str], Path]:
    """``extra_data("models/x.keras")``: that path below FASTLSTM_TEST_DATA; the test is skipped where it is not there."""

    def find(name: str) -> Path:
        root = os.environ.get("FASTLSTM_TEST_DATA")
        if not root:
            pytest.skip(f"needs {name}: FASTLSTM_TEST_DATA does not name a folder of extra test data")
        path = Path(root) / name
        if not path.exists():
            pytest.skip(f"needs {name}, which is not in the folder FASTLSTM_TEST_DATA={root}")
        return path

    return find


@pytest.fixture(params=["fused", "general", "reference"])
def kernel(request: pytest.FixtureRequest) -> Iterator[dict[str, bool]]:
    """Keyword arguments of LSTM that pick a kernel of the CPU backend; for "reference", that backend runs the whole test."""
    from fastlstm import selector

    if request.param == "reference":
        with selector.use_backend("reference"):
            yield {}
    else:
        yield {"use_cudnn": False} if request.param == "general" else {}


def _packed() -> Iterator[None]:
    """The own kernels, for tests of what they alone promise about bits, where FASTLSTM_GEMM and FASTLSTM_ISA lead to BLAS."""
    import fastlstm
    from fastlstm.backends import cpu

    with pytest.MonkeyPatch.context() as patch:
        if cpu.kernel_for(fastlstm.LSTM(1).spec)[0] != "fused":
            patch.setattr(cpu, "GEMM", "packed")
        yield


packed_panels = pytest.fixture(_packed, name="packed_panels")
packed_panels_throughout = pytest.fixture(_packed, name="packed_panels_throughout", scope="module")
