"""Saves small checkpoints with PyTorch and stores what it answers, for tests/test_torch_file.py and tests/test_from_torch.py.

``python tests/data/torch/make.py`` needs torch, safetensors and numpy, not fastlstm. Writes into its own folder:

``mixed.pt``      tensors of every dtype, strided, shared, empty, a Parameter, containers
``legacy.pt``     as torch.save wrote before 1.6;   ``module.pt``: a whole torch.nn.LSTM
``nested.pt``     an LSTM in a model's state dict in a dict, saved with pickle protocol 4; ``nested.npz``: x and y without states
``training.pt``   what scripts save beside the model: optimizer, schedule, sizes, devices, sets, bytes, NumPy's numbers
``parts.pt``      an LSTM's state dict under weight_norm of both kinds, pruned, and with parametrizations that are not read;
``parts.npz``     x, and y of each by its name
NAME.safetensors: weights of an LSTM; NAME.npz: the settings as JSON, x, h0, c0, y, hn, cn, and the gradients of
sum(y * dy) + sum(hn * dhn) + sum(cn * dcn) as grad_x, grad_h0, grad_c0 and grad_weights (all in a row, in PyTorch's order).
"""

import collections
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.utils import parametrizations, prune

HERE = Path(__file__).resolve().parent
N, T, D, H, P = 3, 5, 3, 4, 2


def mixed():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8
    tensors = {
        "contiguous": base.clone(),
        "transposed": base.T,
        "steps": base[::2, 1::2],
        "row": base[2],
        "scalar": torch.tensor(-1.5),
        "empty": torch.zeros(0, 3),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 3),
        "float64": torch.linspace(-1, 1, 3, dtype=torch.float64),
        "float16": torch.tensor([0.5, -2.25], dtype=torch.float16),
        "bfloat16": torch.tensor([1.0, -2.5, 3.140625, float("inf")], dtype=torch.bfloat16)[1:],
        "int64": torch.tensor([-(2**40), 7]),
        "int32": torch.tensor([-3], dtype=torch.int32),
        "int16": torch.tensor([300], dtype=torch.int16),
        "int8": torch.tensor([-128, 127], dtype=torch.int8),
        "uint8": torch.tensor([255], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "parameter": torch.nn.Parameter(torch.tensor([1.0, 2.0])),
    }
    again = tensors["contiguous"]
    beside = {"epoch": 3, "big": 2**70, "loss": 0.125, "name": "müller", "flags": [True, None, (1, 2.5), (), (1, 2, 3, 4)], 7: -1}
    torch.save({"state_dict": tensors, "again": again, "beside": beside}, HERE / "mixed.pt")


def refused():
    layer = torch.nn.LSTM(1, 1)
    torch.save(layer.state_dict(), HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(layer, HERE / "module.pt")


def numbers(*shape, requires_grad=True):
    """Random quarters: they take little room in a file."""
    return (torch.randint(-6, 7, shape) / 4).requires_grad_(requires_grad)


def run(layer, lengths):
    """x, states, outputs and gradients of an LSTM whose input is [N,T,D]."""
    directions = 2 if layer.bidirectional else 1
    count = layer.num_layers * directions
    x, h0, c0 = numbers(N, T, D), numbers(count, N, layer.proj_size or H), numbers(count, N, H)
    if lengths:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, (hn, cn) = layer(packed, (h0, c0))
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=T)
    else:
        y, (hn, cn) = layer(x, (h0, c0))
    cotangents = {name: numbers(*value.shape, requires_grad=False) for name, value in (("dy", y), ("dhn", hn), ("dcn", cn))}
    sum((value * d).sum() for value, d in zip((y, hn, cn), cotangents.values(), strict=True)).backward()
    found = {"x": x, "h0": h0, "c0": c0, "y": y, "hn": hn, "cn": cn, **cotangents}
    found |= {"grad_x": x.grad, "grad_h0": h0.grad, "grad_c0": c0.grad}
    found["grad_weights"] = torch.cat([weight.grad.ravel() for weight in layer.parameters()])
    return {name: value.detach().numpy() for name, value in found.items()}


def nested():
    whole = torch.nn.Module()
    whole.embedding, whole.encoder, whole.head = torch.nn.Embedding(4, D), torch.nn.Module(), torch.nn.Linear(H, 2)
    whole.encoder.rnn = torch.nn.LSTM(D, H, batch_first=True)
    torch.save({"epoch": 1, "model": whole.state_dict()}, HERE / "nested.pt", pickle_protocol=4)
    x = numbers(N, T, D, requires_grad=False)
    np.savez_compressed(HERE / "nested.npz", x=x.numpy(), y=whole.encoder.rnn(x)[0].detach().numpy())


def training():
    layer = torch.nn.LSTM(D, H, batch_first=True)
    optimizer = torch.optim.Adam(layer.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5, 5])
    weight = torch.nn.Parameter(torch.ones(2))
    weight.decayed = False
    beside = {
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda", 1),
        "dtype": torch.float32,
        "set": {7},
        "bytes": b"\xe4b",
    }
    beside |= {"best": np.float64(0.1), "last": np.float32(0.5), "count": np.int64(-3), "complex": 1 - 2j, "weight": weight}
    beside["lists"] = collections.defaultdict(list, {"loss": [0.5, np.float64(0.25)]})
    whole = {"epoch": 3, "model": layer.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    torch.save({**whole, "beside": beside}, HERE / "training.pt")


def parts():
    x = numbers(N, T, D, requires_grad=False)
    made = {
        "old": lambda layer: [torch.nn.utils.weight_norm(layer, name) for name in ("weight_ih_l0", "weight_hh_l0")],
        "new": lambda layer: parametrizations.weight_norm(layer, "weight_hh_l0"),
        "columns": lambda layer: parametrizations.weight_norm(layer, "weight_hh_l0", dim=1),
        "one": lambda layer: parametrizations.weight_norm(layer, "weight_hh_l0", dim=None),
        "pruned": lambda layer: [
            prune.random_unstructured(layer, name, 0.5) for name in ("weight_hh_l0", "weight_ih_l0", "bias_hh_l0")
        ],
        "spectral": lambda layer: parametrizations.spectral_norm(layer, "weight_hh_l0"),
        "old_spectral": lambda layer: torch.nn.utils.spectral_norm(layer, "weight_hh_l0"),
        "orthogonal": lambda layer: parametrizations.orthogonal(layer, "weight_hh_l0"),
    }
    states, answers = {}, {"x": x.numpy()}
    for name, change in made.items():
        layer = torch.nn.LSTM(D, H, batch_first=True)
        change(layer)
        with torch.no_grad():
            for key, value in layer.named_parameters():
                if key.endswith(("_g", "original0")):
                    value.mul_(1.5)
            answers[name] = layer(x)[0].numpy()
        states[name] = layer.state_dict()
    torch.save(states, HERE / "parts.pt")
    np.savez_compressed(HERE / "parts.npz", **answers)


def lstm(name, lengths=None, **options):
    layer = torch.nn.LSTM(D, H, batch_first=True, **options)
    save_file(layer.state_dict(), HERE / f"{name}.safetensors", {"format": "pt"})
    (HERE / f"{name}.safetensors").chmod(0o644)
    settings = json.dumps({"lengths": lengths, **options})
    np.savez_compressed(HERE / f"{name}.npz", settings=settings, **run(layer, lengths))


if __name__ == "__main__":
    torch.manual_seed(5)
    mixed()
    refused()
    nested()
    lstm("packed_bi_l2", lengths=[2, 5, 1], num_layers=2, bidirectional=True)
    lstm("proj", proj_size=P, bias=False)
    lstm("packed_proj_bi_l2", lengths=[4, 1, 5], num_layers=2, bidirectional=True, proj_size=P)
    training()
    parts()
