"""PyTorch: ``nn.LSTM`` (time-major, its own layout), ConvLSTM1D as the loop that people write by hand, autograd for gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv1d
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.rivals.workload import THREADS, Data, Runner, Workload

torch.set_num_threads(THREADS)
torch.set_num_interop_threads(1)
_guards: list[Any] = []


def versions() -> str:
    return f"torch {torch.__version__}"


def enter_mode(training: bool) -> None:
    """Inference mode for all that follows, or no longer."""
    while _guards:
        _guards.pop().__exit__(None, None, None)
    if not training:
        _guards.append(torch.inference_mode())
        _guards[-1].__enter__()


def make(work: Workload, data: Data, folder: str) -> dict[str, Callable[[], Runner]]:
    enter_mode(work.training)
    if not work.is_lstm:
        return {"hand-written loop": lambda: _convlstm1d(work, data)}
    return {"nn.LSTM": lambda: _lstm(work, data)}


def _lstm(work: Workload, data: Data) -> Runner:
    layer = torch.nn.LSTM(work.features, work.units, bidirectional=work.bidirectional, dtype=getattr(torch, work.dtype))
    with torch.no_grad():
        for end, suffix in (("", ""), ("_b", "_reverse"))[: 1 + work.bidirectional]:
            getattr(layer, "weight_ih_l0" + suffix).copy_(torch.from_numpy(data["kernel" + end].T))
            getattr(layer, "weight_hh_l0" + suffix).copy_(torch.from_numpy(data["recurrent_kernel" + end].T))
            getattr(layer, "bias_ih_l0" + suffix).copy_(torch.from_numpy(data["bias" + end]))
            getattr(layer, "bias_hh_l0" + suffix).zero_().requires_grad_(False)
    layer.train(work.training)
    inputs = [torch.from_numpy(np.ascontiguousarray(x.swapaxes(0, 1))) for x in data["inputs"]]
    if work.training:
        return _lstm_training(work, data, layer, inputs)
    if work.carries_states:
        return _stream(work, layer, inputs)
    if work.ragged:
        lengths = [torch.from_numpy(n) for n in data["lengths"]]
        calls = [partial(_packed, layer, x, n, work.steps) for x, n in zip(inputs, lengths, strict=True)]
        return Runner(calls, lambda y: [y.numpy().swapaxes(0, 1)])
    calls = [partial(layer, x) for x in inputs]
    if work.return_sequences:
        return Runner(calls, lambda returned: [returned[0].numpy().swapaxes(0, 1)])
    return Runner(calls, lambda returned: [returned[1][0][0].numpy()])


def _packed(layer: torch.nn.LSTM, x: torch.Tensor, lengths: torch.Tensor, steps: int) -> torch.Tensor:
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    return pad_packed_sequence(layer(packed)[0], total_length=steps)[0]


def _stream(work: Workload, layer: torch.nn.LSTM, inputs: list[torch.Tensor]) -> Runner:
    state: list[Any] = []

    def reset() -> None:
        state[:] = [tuple(torch.zeros(1, work.batch, work.units) for _ in "hc")]

    def call(x: torch.Tensor) -> torch.Tensor:
        y, state[0] = layer(x, state[0])
        return y

    reset()
    return Runner([partial(call, x) for x in inputs], lambda y: [y[0].numpy()], reset)


def _lstm_training(work: Workload, data: Data, layer: torch.nn.LSTM, inputs: list[torch.Tensor]) -> Runner:
    weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0]
    cotangent = torch.from_numpy(data["cotangent"])
    if work.return_sequences:
        cotangent = cotangent.transpose(0, 1).contiguous()

    def call(x: torch.Tensor) -> Any:
        sequence, (h, _) = layer(x)
        y = sequence if work.return_sequences else h[0]
        return y, *torch.autograd.grad(y, [x, *weights], cotangent)

    def result(returned: Any) -> list[np.ndarray]:
        y, dx, dkernel, drecurrent, dbias = (a.detach().numpy() for a in returned)
        y = y.swapaxes(0, 1) if work.return_sequences else y
        return [y, dx.swapaxes(0, 1), dkernel.T, drecurrent.T, dbias]

    return Runner([partial(call, x.requires_grad_()) for x in inputs], result)


def _convlstm1d(work: Workload, data: Data) -> Runner:
    """Inputs [T*N,C,R]: one convolution for all steps, then one a step, channels first as ``conv1d`` wants them."""
    kernel, recurrent = (
        torch.from_numpy(np.ascontiguousarray(data[name].transpose(2, 1, 0))) for name in ("kernel", "recurrent_kernel")
    )
    bias = torch.from_numpy(data["bias"])
    inputs = [
        torch.from_numpy(np.ascontiguousarray(x.transpose(1, 0, 3, 2)).reshape(-1, work.features, work.rows))
        for x in data["inputs"]
    ]
    shape = (work.batch, work.units, work.rows_out)

    def forward(x: torch.Tensor) -> torch.Tensor:
        projected = conv1d(x, kernel, bias, padding=work.padding)
        h, c, outputs = torch.zeros(shape), torch.zeros(shape), []
        for xz in projected.split(work.batch):
            z = xz + conv1d(h, recurrent, padding="same")
            i, f, candidate, o = z.chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs)

    def to_keras(y: torch.Tensor) -> np.ndarray:
        return y.detach().numpy().transpose(1, 0, 3, 2)

    if not work.training:
        return Runner([partial(forward, x) for x in inputs], lambda y: [to_keras(y)])
    weights = [weight.requires_grad_() for weight in (kernel, recurrent, bias)]
    cotangent = torch.from_numpy(np.ascontiguousarray(data["cotangent"].transpose(1, 0, 3, 2)))

    def call(x: torch.Tensor) -> Any:
        y = forward(x)
        return y, *torch.autograd.grad(y, [x, *weights], cotangent)

    def result(returned: Any) -> list[np.ndarray]:
        y, dx, dkernel, drecurrent, dbias = returned
        dx = dx.reshape(work.steps, work.batch, work.features, work.rows)
        return [to_keras(y), to_keras(dx), *(d.numpy().transpose(2, 1, 0) for d in (dkernel, drecurrent)), dbias.numpy()]

    return Runner([partial(call, x.requires_grad_()) for x in inputs], result)
