"""Writes .h5 files as Keras 1 and 2 did, piece by piece; used by the tests of old files."""

from __future__ import annotations

import json

import h5py
import numpy as np


def layer(class_name, name, inbound=None, **config):
    """One entry of a model's config; ``inbound``: its calls in a functional model."""
    entry = {"class_name": class_name, "config": {"name": name, **config}}
    return entry if inbound is None else {**entry, "name": name, "inbound_nodes": inbound}


def lstm_config(**changes):
    """What TensorFlow 2 wrote for an LSTM, in full."""
    glorot = {"class_name": "GlorotUniform", "config": {"seed": None, "dtype": "float32"}}
    return {
        "trainable": True,
        "dtype": "float32",
        "return_sequences": False,
        "return_state": False,
        "go_backwards": False,
        "stateful": False,
        "unroll": False,
        "time_major": False,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "kernel_initializer": glorot,
        "recurrent_initializer": {"class_name": "Orthogonal", "config": {"gain": 1.0, "seed": None}},
        "bias_initializer": {"class_name": "Zeros", "config": {}},
        "unit_forget_bias": True,
        "kernel_regularizer": None,
        "recurrent_regularizer": None,
        "bias_regularizer": None,
        "activity_regularizer": None,
        "kernel_constraint": None,
        "recurrent_constraint": None,
        "bias_constraint": None,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
        "implementation": 2,
        **changes,
    }


def sequential(*entries, as_list=False):
    """The config of a Sequential; ``as_list``: as Keras 2.0 to 2.2.2 wrote it."""
    return {"class_name": "Sequential", "config": list(entries) if as_list else {"name": "old", "layers": list(entries)}}


def functional(entries, inputs, outputs, class_name="Model"):
    config = {"name": "old", "layers": entries, "input_layers": inputs, "output_layers": outputs}
    return {"class_name": class_name, "config": config}


def fill(group, weights, version):
    """The weights of each layer, {layer: {name: array}}, in a group."""
    group.attrs["layer_names"] = [name.encode() for name in weights]
    group.attrs["backend"] = b"tensorflow"
    if version is not None:
        group.attrs["keras_version"] = version.encode()
    for name, arrays in weights.items():
        own = group.create_group(name)
        own.attrs["weight_names"] = [key.encode() for key in arrays]
        for key, array in arrays.items():
            own.create_dataset(key, data=np.asarray(array, np.float32))


def write_model(path, config, weights, version="2.2.4", **attributes):
    """A whole model; ``weights`` as of ``fill``."""
    with h5py.File(path, "w") as handle:
        handle.attrs["model_config"] = json.dumps(config).encode()
        if version is not None:
            handle.attrs["keras_version"] = version.encode()
        for key, value in attributes.items():
            handle.attrs[key] = value
        fill(handle.create_group("model_weights"), weights, version)
    return path


def write_weights(path, weights, version="2.2.4"):
    """The weights alone, at the root of the file."""
    with h5py.File(path, "w") as handle:
        fill(handle, weights, version)
    return path
