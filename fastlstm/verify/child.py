"""Runs a model in one runtime and stores what every layer returns: ``python child.py FOLDER``. Started by ``runtimes``.

Needs NumPy and the runtime, nothing of fastlstm (but for the runtime "reference"), since it may run in another interpreter.
FOLDER holds request.json {"runtime", "model", "prefix", "calls", "seconds", "float64"} and inputs.npz ("0", "1", …); answer.json
and answer.npz come into it. answer.json: {"title", "outputs": [keys], "seconds": [of each call]}, or {"missing": why the runtime
cannot be had}, or {"failed": why it cannot open or run the model}.

Keys of arrays: each is a digest of the layer's name and of the keys that went into the call, so that both sides find the same
call of a shared layer; a layer that is called once also has the key "<name>:<output>".
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import time

import numpy as np


# -- keys ---------------------------------------------------------------------------------------------------------------
def keys_of(calls, inputs):
    """{tensor: [its keys]} of calls (layer's name, sources, outputs), tensors being anything that can be a key of a dict."""
    known = {tensor: f"input {k}" for k, tensor in enumerate(inputs)}
    counts: dict[str, int] = {}
    keys = {tensor: [known[tensor]] for tensor in inputs}
    for name, _, _ in calls:
        counts[name] = counts.get(name, 0) + 1
    pending = list(calls)
    while pending:
        ready = [call for call in pending if all(source in known for source in call[1])]
        if not ready:
            break
        pending = [call for call in pending if call not in ready]
        for name, sources, outputs in ready:
            text = "|".join([name, *sorted({known[source] for source in sources})])
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            for k, tensor in enumerate(outputs):
                known[tensor] = f"{digest}:{k}"
                keys[tensor] = [known[tensor]] + ([f"{name}:{k}"] if counts[name] == 1 else [])
    return keys


# -- Keras --------------------------------------------------------------------------------------------------------------
def run_keras(request, inputs):
    """Keras 3 on whichever backend there is, or Keras 2."""
    if not os.environ.get("KERAS_BACKEND"):
        found = [name for name in (_backend_told(), "tensorflow", "jax", "torch") if importlib.util.find_spec(name) is not None]
        os.environ["KERAS_BACKEND"] = found[0] if found else "tensorflow"
    if request["float64"]:
        os.environ["JAX_ENABLE_X64"] = "1"
    import keras

    if keras.__version__.startswith("2."):
        return _in_keras(keras, request, inputs, f"keras {keras.__version__}", _calls_of_keras_2)

    # Files of fastlstm name what Keras 2 called hard_sigmoid so; Keras looks activations up in this table alone.
    import keras.src.activations as activations

    activations.ALL_OBJECTS_DICT["hard_sigmoid_keras2"] = lambda x: keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)
    backend = keras.backend.backend()
    module = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}.get(backend)
    version = getattr(sys.modules.get(module), "__version__", "") if module else ""
    title = f"keras {keras.__version__} on {backend} {version}".rstrip()
    return _in_keras(keras, request, inputs, title, _calls_of_keras_3)


def _backend_told():
    """The backend in Keras' own file, which it writes at its first import, whether that backend is installed or not."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            return str(json.load(file)["backend"])
    except (OSError, ValueError, LookupError, TypeError):  # no such file, or one that Keras will complain about
        return "tensorflow"


def run_tf_keras(request, inputs):
    """Keras 2 as the package tf_keras, else as the tf.keras of TensorFlow up to 2.15."""
    if importlib.util.find_spec("tf_keras") is not None:
        import tf_keras as keras
    else:
        if importlib.util.find_spec("tensorflow") is None:
            raise ImportError("No module named 'tf_keras', nor 'tensorflow'")
        from tensorflow import keras
    if not str(keras.__version__).startswith("2."):
        raise ImportError(f"its tf.keras is Keras {keras.__version__}, and there is no package tf_keras")
    return _in_keras(keras, request, inputs, f"tf_keras {keras.__version__}", _calls_of_keras_2)


def _in_keras(keras, request, inputs, title, calls_of):
    model = keras.models.load_model(request["model"], compile=False)
    calls, starts, ends = calls_of(keras, model)
    keys = keys_of([(name, sources, [place for place, _ in outputs]) for name, sources, outputs in calls], starts)
    tensors = {place: tensor for _, _, outputs in calls for place, tensor in outputs}
    listed = list(tensors)
    whole = keras.Model(model.inputs, [tensors[place] for place in listed])
    answers = whole.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
    answers = list(answers) if isinstance(answers, (list, tuple)) else [answers]
    found = zip(listed, answers)  # noqa: B905  (Python 3.9 has no strict)
    arrays = {key: np.asarray(a) for place, a in found for key in keys.get(place, [])}
    seconds = timed(lambda: model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0]), request)
    return {"title": title, "outputs": [keys[end][0] for end in ends], "seconds": seconds}, arrays


def _calls_of_keras_3(keras, model):
    """[(layer's name, sources, [(place, tensor)])], places of the inputs, places of the outputs; a place says where a tensor
    comes from."""
    functional = getattr(model, "_functional", None) or model

    def place(tensor):
        history = tensor._keras_history
        return id(history.operation), history.node_index, history.tensor_index

    calls = []
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if not node.is_input:
                sources = [place(tensor) for tensor in node.arguments.keras_tensors]
                calls.append((node.operation.name, sources, [(place(tensor), tensor) for tensor in node.outputs]))
    return calls, [place(t) for t in functional.inputs], [place(t) for t in functional.outputs]


def _calls_of_keras_2(keras, model):
    def place(tensor):
        history = tensor._keras_history
        return id(history.layer), history.node_index, history.tensor_index

    calls = []
    for layer in model.layers:
        for index, node in enumerate(layer._inbound_nodes):
            if f"{layer.name}_ib-{index}" in model._network_nodes and node.keras_inputs:
                outputs = [(place(tensor), tensor) for tensor in flattened(node.outputs)]
                calls.append((layer.name, [place(tensor) for tensor in node.keras_inputs], outputs))
    return calls, [place(t) for t in model.inputs], [place(t) for t in model.outputs]


def flattened(structure):
    """The leaves of lists, tuples and dicts."""
    if isinstance(structure, dict):
        structure = structure.values()
    elif not isinstance(structure, (list, tuple)):
        return [structure]
    return [leaf for part in structure for leaf in flattened(part)]


# -- fastlstm itself ----------------------------------------------------------------------------------------------------
def run_reference(request, inputs):
    """The reference backend of fastlstm, where it can in float64: plain NumPy, one step after the other."""
    from fastlstm.selector import use_backend
    from fastlstm.verify.subjects import subject_of
    from fastlstm.version import __version__

    subject = subject_of(request["model"], request["prefix"])
    with use_backend("reference"):
        found, call, kind = subject.reference(inputs)
        seconds = timed(call, request)
    arrays = {key: row.array for row in found.rows for key in row.keys}
    return {"title": f"fastlstm {__version__}, reference backend in {kind}", "outputs": found.outputs, "seconds": seconds}, arrays


# -- ONNX ---------------------------------------------------------------------------------------------------------------
def run_onnxruntime(request, inputs):
    """onnxruntime on the CPU; the arrays inside the graph too where the package onnx can add them to its outputs."""
    import onnxruntime

    def session(model):
        return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    plain = session(request["model"])
    given = {value.name: x for value, x in zip(plain.get_inputs(), inputs)}  # noqa: B905
    outputs = [value.name for value in plain.get_outputs()]
    arrays = dict(zip(outputs, plain.run(None, given)))  # noqa: B905
    title = f"onnxruntime {onnxruntime.__version__}"
    if importlib.util.find_spec("onnx") is None:
        title += " (without the package onnx there, which would show what is inside)"
    else:
        import onnx

        model = onnx.load(request["model"])
        inside = [name for node in model.graph.node for name in node.output if name and name not in outputs]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(inside))
        whole = session(model.SerializeToString())
        found = zip([value.name for value in whole.get_outputs()], whole.run(None, given))  # noqa: B905
        arrays = {name: np.asarray(array) for name, array in found}
    return {"title": title, "outputs": outputs, "seconds": timed(lambda: plain.run(None, given), request)}, arrays


# -- PyTorch ------------------------------------------------------------------------------------------------------------
def run_torch(request, inputs):
    """torch.nn.LSTM with the weights of the file, layer upon layer."""
    import torch

    state = _torch_state(torch, request["model"], request["prefix"])
    if not any("_l0" in name for name in state):  # an LSTMCell
        state = {f"{name}_l0": tensor for name, tensor in state.items()}
    count = len([name for name in state if name.startswith("weight_ih_l") and not name.endswith("_reverse")])
    x, arrays = torch.from_numpy(inputs[0]), {}
    for number in range(1, count + 1):
        part = {name: t for name, t in state.items() if int(name.split("_l")[1].split("_")[0]) < number}
        layer = torch.nn.LSTM(
            part["weight_ih_l0"].shape[1],
            part["weight_ih_l0"].shape[0] // 4,
            number,
            bias="bias_ih_l0" in part,
            batch_first=True,
            bidirectional="weight_ih_l0_reverse" in part,
            proj_size=part["weight_hr_l0"].shape[0] if "weight_hr_l0" in part else 0,
        ).to(x.dtype)
        layer.load_state_dict(part)
        with torch.inference_mode():
            arrays[f"l{number - 1}"] = layer(x)[0].numpy()
    with torch.inference_mode():
        seconds = timed(lambda: layer(x), request)
    return {"title": f"torch {torch.__version__}", "outputs": [f"l{count - 1}"], "seconds": seconds}, arrays


def _torch_state(torch, path, prefix):
    """The tensors of one LSTM by their names without what stands before them."""
    state = (
        _safetensors(torch, path) if path.endswith(".safetensors") else torch.load(path, map_location="cpu", weights_only=True)
    )
    found = {}
    pending = [("", state)]
    while pending:
        start, mapping = pending.pop()
        for name, value in mapping.items():
            if isinstance(value, dict):
                pending.append((f"{start}{name}.", value))
            elif isinstance(name, str):
                found[start + name] = value
    named = [name for name in found if name.rpartition(".")[2].startswith(("weight_ih", "weight_hh", "weight_hr", "bias_"))]
    named = [name for name in named if prefix is None or name.startswith(prefix)]
    tensors = {name.rpartition(".")[2]: found[name] for name in named}
    return {name: tensor.float() if tensor.dtype != torch.float64 else tensor for name, tensor in tensors.items()}


def _safetensors(torch, path):
    """The tensors of a .safetensors file: 8 bytes with the length of a JSON header, the header, the numbers."""
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with open(path, "rb") as stream:
        data = stream.read()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, told in json.loads(data[8:start]).items():
        if name != "__metadata__" and told["dtype"] in kinds:
            begin, end = told["data_offsets"]
            piece = bytearray(data[start + begin : start + end])
            tensors[name] = torch.frombuffer(piece, dtype=kinds[told["dtype"]]).reshape(told["shape"])
    return tensors


# -- the process --------------------------------------------------------------------------------------------------------
def timed(call, request):
    """Seconds of each of some calls, the first ones left out: they compile."""
    for _ in range(2):
        call()
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < request["calls"] and (not seconds or time.perf_counter() - begin < request["seconds"]):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


RUNTIMES = {
    "reference": run_reference,
    "keras": run_keras,
    "tf_keras": run_tf_keras,
    "onnxruntime": run_onnxruntime,
    "torch": run_torch,
}


def main(folder):
    with open(os.path.join(folder, "request.json"), encoding="utf-8") as stream:
        request = json.load(stream)
    with np.load(os.path.join(folder, "inputs.npz"), allow_pickle=False) as stored:
        inputs = [stored[str(k)] for k in range(len(stored.files))]
    arrays = {}
    try:
        answer, arrays = RUNTIMES[request["runtime"]](request, inputs)
    except ImportError as error:
        answer = {"missing": str(error)}
    except Exception as error:  # whatever a runtime raises is the answer: it cannot run this model
        answer = {"failed": f"{type(error).__name__}: {error}"}
    np.savez(os.path.join(folder, "answer.npz"), **arrays)
    with open(os.path.join(folder, "answer.json"), "w", encoding="utf-8") as stream:
        json.dump(answer, stream)


if __name__ == "__main__":
    main(sys.argv[1])
