"""Types of the compiled module (pyx/_core.pyx)."""

from typing import Any

import numpy as np

isa: str

def isa_available() -> list[str]: ...
def load_blas() -> None: ...
def set_num_threads(threads: int) -> None: ...
def num_threads() -> int: ...
def max_threads() -> int: ...
def set_thread_work(a_thread: float, a_step: float) -> tuple[float, float]: ...

class GateWeights:
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    taps: int
    channels: int
    units: int
    def __init__(
        self, kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray | None, last: GateWeights | None = None
    ) -> None: ...
    def backward_panels(self, stride: int, gated_x: bool, gated_h: bool) -> BackwardPanels: ...

def lstm_forward(
    weights: GateWeights,
    x: np.ndarray,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    mask: np.ndarray | None,
    activation: int,
    recurrent_activation: int,
    rounding: int,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    path: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def convlstm1d_forward(
    weights: GateWeights,
    x: np.ndarray,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    mask: np.ndarray | None,
    rows: tuple,
    activation: int,
    recurrent_activation: int,
    rounding: int,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    channels_first: bool,
    path: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...

class BackwardPanels: ...

class Tape:
    x_scales: np.ndarray | None
    h_scales: np.ndarray | None
    x_shape: tuple[int, ...]
    state_shape: tuple[int, ...]
    @property
    def inputs(self) -> np.ndarray: ...
    @property
    def is_masked(self) -> bool: ...
    @property
    def c(self) -> np.ndarray: ...
    @property
    def h(self) -> np.ndarray: ...
    @property
    def nbytes(self) -> int: ...

def record_forward(
    weights: GateWeights,
    x: np.ndarray,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    mask: np.ndarray | None,
    rows: tuple | None,
    activation: int,
    recurrent_activation: int,
    rounding: int,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    path: str,
    x_scales: np.ndarray | None,
    h_scales: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tape]: ...
def run_backward(
    tape: Tape,
    panels: BackwardPanels,
    dy: np.ndarray | None,
    dh: np.ndarray | None,
    dc: np.ndarray | None,
    inputs: bool,
) -> tuple[Any, ...]: ...

class Counter:
    value: int
    def __init__(self, value: int = 0) -> None: ...
    def add(self) -> None: ...

class CallPlan:
    def __init__(
        self,
        weights: GateWeights,
        counters: tuple[Counter, ...],
        counts: tuple[int, ...],
        states: Any,
        rows: tuple | None,
        activation: int,
        recurrent_activation: int,
        go_backwards: bool,
        return_sequences: bool,
        return_state: bool,
        zero_output_for_mask: bool,
        path: str,
    ) -> None: ...
    def __call__(self, x: Any, initial_state: Any, mask: Any, out: Any) -> Any: ...
    def record(self, x: Any, initial_state: Any, mask: Any) -> tuple[Any, Tape] | None: ...
    def pull(self, tape: Tape, dy: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]] | None: ...
    def bound(
        self, x: np.ndarray, initial_state: tuple[np.ndarray, np.ndarray], y: np.ndarray, h: np.ndarray, c: np.ndarray
    ) -> BoundCall: ...

class BoundCall:
    def __call__(self) -> None: ...

class PackedMatrix:
    depth: int
    columns: int
    dtype: np.dtype
    def __init__(self, matrix: np.ndarray, bias: np.ndarray | None) -> None: ...
    def affine(self, x: np.ndarray) -> np.ndarray: ...
    def windows(self, x: np.ndarray, rows: int, taps: int, stride: int, dilation: int) -> np.ndarray: ...
    def bound(self, x: np.ndarray, z: np.ndarray, taps: int, stride: int, dilation: int) -> BoundProduct: ...

class BoundProduct:
    def __call__(self) -> None: ...

def activate(id: int, x: np.ndarray) -> np.ndarray: ...
def activate_grad(id: int, x: np.ndarray, y: np.ndarray) -> np.ndarray: ...
def round_storage(rounding: int, x: np.ndarray) -> np.ndarray: ...
def peak_gflops(dtype: str = "float32", seconds: float = 0.02) -> float: ...
