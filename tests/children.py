"""Tests that start a process for each of their parameters: those of one test function run side by side, one for each processor.

Used by the tests that repeat themselves on every instruction set and GEMM.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

_RUNNING: dict[Any, dict[str, Future]] = {}


def finished(request: pytest.FixtureRequest, run: Callable) -> Any:
    """``run(**parameters)`` of the test that asks; the first one to ask also starts those of its function's other tests."""
    function = request.function
    if function not in _RUNNING:
        pool = ThreadPoolExecutor(os.cpu_count())
        tests = [item for item in request.session.items if isinstance(item, pytest.Function) and item.function is function]
        _RUNNING[function] = {item.nodeid: pool.submit(run, **item.callspec.params) for item in tests}
        pool.shutdown(wait=False)
    return _RUNNING[function][request.node.nodeid].result()
