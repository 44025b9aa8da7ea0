"""What the command line says about a model, a prediction and an installation, as plain text. Uses ``tables``; used by ``cli``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .io.data_file import DataFile
from .models import Sequential
from .tables import human_bytes, human_seconds, printable, shape_text, table

_EXTRAS = {
    "scipy": ("fastlstm[blas]", "BLAS for large products"),
    "h5py": ("fastlstm[keras]", "reads and writes .keras files"),
    "ml_dtypes": ("fastlstm[bf16]", "bfloat16"),
    "tqdm": ("fastlstm[cli]", "progress bars"),
    "matplotlib": ("fastlstm[plot]", "History.plot"),
    "onnx": ("fastlstm[onnx]", "reads .onnx files"),
}


def facts(pairs: list[tuple[str, str]]) -> str:
    """ "name  value" lines."""
    return table([list(pair) for pair in pairs])


# -- models -------------------------------------------------------------------------------------------------------------
def input_shape(model: Sequential) -> tuple[int | None, ...] | None:
    """Input shape of a built model, batch axis first; None before build."""
    shape: Any = model.input_shape if model.built else None
    return tuple(shape.values() if isinstance(shape, dict) else shape) if shape is not None else None


def _shapes_text(shape: Any) -> str:
    """One shape, the list of shapes of a layer that returns its states, or None."""
    if shape is None:
        return "unknown"
    if isinstance(shape, dict):
        return ", ".join(f"{name} {_shapes_text(one)}" for name, one in shape.items())
    if any(isinstance(entry, (tuple, list)) for entry in shape):
        return ", ".join(shape_text(one) for one in shape)
    return shape_text(shape)


def _size(model: Sequential) -> tuple[int, int]:
    """Number of parameters and their bytes."""
    return sum(v.size for v in model.weights), sum(v.size * v.dtype.itemsize for v in model.weights)


def _dtypes(model: Sequential) -> str:
    return ", ".join(dict.fromkeys(layer.dtype_policy.name for layer in model.layers)) or "none"


def class_text(layer: Any) -> str:
    """ "LSTM", "Bidirectional(LSTM)"."""
    inner = getattr(layer, "forward_layer", None) or getattr(layer, "layer", None)
    name = type(layer).__name__
    return f"{name}({class_text(inner)})" if inner is not None else name


def _output_shapes(model: Any, shape: Any) -> list[Any]:
    """The output shape of each layer, None where it is not known."""
    if not isinstance(model, Sequential):
        return model._summary_columns()[0]
    shapes: list[Any] = []
    for layer in model.layers:
        before = shapes[-1] if shapes else shape
        shapes.append(None if before is None else tuple(layer.compute_output_shape(before)))
    return shapes


def model_text(path: str, model: Any, metadata: dict[str, Any]) -> str:
    """The page of ``fastlstm info``."""
    parameters, size = _size(model)
    trainable = sum(v.size for v in model.trainable_weights)
    shape = input_shape(model)
    rows: list[list[str]] = []
    shapes = _output_shapes(model, shape)
    current = model.output_shape if not isinstance(model, Sequential) else shapes[-1] if shapes else shape
    for index, (layer, after) in enumerate(zip(model.layers, shapes, strict=True), 1):
        count = sum(v.size for v in layer.weights)
        rows.append([str(index), printable(layer.name), class_text(layer), _shapes_text(after), f"{count:,}"])
    date, version = (str(metadata.get(key, "unknown")) for key in ("date_saved", "keras_version"))
    head = [
        ("model", f"{printable(model.name)} ({type(model).__name__})"),
        ("file", path),
        ("saved", printable(f"{date.replace('@', ' ')}, Keras {version}")),
        ("input", _shapes_text(shape)),
        ("output", _shapes_text(current)),
        ("dtype", _dtypes(model)),
        ("parameters", f"{parameters:,} ({trainable:,} trainable)"),
        ("memory", f"{human_bytes(size)} of weights"),
    ]
    layers = table(rows, ("#", "layer", "class", "output shape", "parameters"), right=(0, 4))
    return f"{facts(head)}\n\n{layers}"


# -- predictions --------------------------------------------------------------------------------------------------------
def described(array: np.ndarray) -> str:
    """ "370 x 29 x 12, float32"."""
    return f"{' x '.join(map(str, array.shape))}, {array.dtype}"


def heading(path: str, model: Sequential, data: DataFile, x: np.ndarray) -> str:
    """What is run on what."""
    parameters, _ = _size(model)
    sequence = " x ".join(map(str, x.shape[1:])) or "1"
    array = f"array {data.key}, " if data.key else ""
    return facts(
        [
            ("model", f"{path}: {len(model.layers)} layers, {parameters:,} parameters, {_dtypes(model)}"),
            ("input", f"{data.name}: {array}{_counted(len(x), unit(model))} of {sequence}, {x.dtype}"),
        ]
    )


def unit(model: Any) -> str:
    """What the first axis of a model's input counts."""
    return "time step" if model.time_major else "sequence"


def _counted(count: int, unit: str = "sequence") -> str:
    return f"1 {unit}" if count == 1 else f"{count:,} {unit}s"


def class_names(data: DataFile, count: int) -> list[str] | None:
    """The names in the file's ``classes``, one for each of ``count`` outputs, else None."""
    classes = data.others.get("classes")
    if classes is None or classes.shape != (count,) or classes.dtype.kind not in "USiu":
        return None
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in classes.tolist()]
    return [printable(name) for name in names]


def _truth(prediction: np.ndarray, data: DataFile) -> np.ndarray | None:
    """True class of each sequence [N] from the file's ``y`` (class numbers, or one-hot rows), else None."""
    y = data.others.get("y")
    if y is None or prediction.ndim != 2 or y.shape[:1] != prediction.shape[:1] or y.dtype.kind not in "iubf":
        return None
    if y.ndim == 2 and y.shape == prediction.shape and y.shape[1] > 1:
        return y.argmax(axis=1)
    y = y.reshape(len(y), -1)
    highest = max(prediction.shape[1] - 1, 1)
    whole = y.shape[1] == 1 and bool(np.all((y >= 0) & (y <= highest) & (y == np.floor(y))))
    return y[:, 0].astype(np.intp) if whole else None


def _unusable(y: np.ndarray, prediction: np.ndarray) -> str:
    """Why ``_truth`` makes nothing of the array y."""
    if prediction.ndim != 2:
        return f"the prediction has shape {shape_text(prediction.shape)}, y is compared with one row for each sequence only"
    highest = max(prediction.shape[1] - 1, 1)
    return (
        f"expected y to hold {len(prediction)} class numbers in 0 ... {highest} (or one-hot rows); the file has shape "
        f"{shape_text(y.shape)}, {y.dtype}" + (f", {y.min():g} ... {y.max():g}" if y.size and y.dtype.kind in "iuf" else "")
    )


def _decided(prediction: np.ndarray) -> np.ndarray:
    """Predicted class [N] of [N, K]: the largest, for K = 1 whether the output is above 0.5."""
    if prediction.shape[1] == 1:
        return (prediction[:, 0] > 0.5).astype(np.intp)
    return prediction.argmax(axis=1)


def prediction_text(prediction: np.ndarray, data: DataFile, rows: int) -> str:
    """The first rows: the three likeliest classes where the file tells of classes, else the first numbers of each."""
    shown = min(rows, len(prediction))
    truth = _truth(prediction, data)
    names = class_names(data, prediction.shape[-1])
    if prediction.ndim == 2 and prediction.shape[1] > 1 and (truth is not None or names is not None):
        text = _class_table(prediction[:shown], names or [f"class {k}" for k in range(prediction.shape[1])], truth)
    else:
        flat = prediction.reshape(len(prediction), -1)
        more = ["..."] if flat.shape[1] > 6 else []
        body = [[str(k), *(f"{v:.6g}" for v in row[:6]), *more] for k, row in enumerate(flat[:shown])]
        text = table(body, ("#", "prediction"), right=tuple(range(7)))
    left = len(prediction) - shown
    lines = ([text] if shown else []) + ([f"({left:,} more)" if shown else f"({_counted(left)})"] if left else [])
    return "\n".join(lines)


def _class_table(prediction: np.ndarray, names: list[str], truth: np.ndarray | None) -> str:
    """One line a sequence: the likeliest classes with their outputs, and the true class where it is known."""
    best = min(3, prediction.shape[1])
    body = []
    for index, row in enumerate(prediction):
        order = np.argsort(-row, kind="stable")[:best]
        cells = [str(index)]
        for k in order:
            cells += [names[k], f"{row[k]:.3f}"]
        if truth is not None:
            right = "ok" if truth[index] == order[0] else "WRONG"
            cells += [names[truth[index]], right]
        body.append(cells)
    header = ["#", *(cell for title in ("prediction", "second", "third")[:best] for cell in (title, "output"))]
    header += ["truth", ""] if truth is not None else []
    return table(body, header, right=(0, *range(2, 2 * best + 1, 2)))


def scores(prediction: np.ndarray, data: DataFile) -> list[tuple[str, str]]:
    """Accuracy against ``y`` and largest difference from ``keras_prediction``, where the file has them, or why it cannot be."""
    lines = []
    truth = _truth(prediction, data)
    if truth is not None:
        hits = int((_decided(prediction) == truth).sum())
        lines.append(("accuracy", f"{hits / len(truth):.3f} ({hits:,} of {len(truth):,})"))
    elif "y" in data.others and (data.others["y"].dtype.kind != "f" or "classes" in data.others):  # else a regression
        lines.append(("accuracy", f"unknown: {_unusable(data.others['y'], prediction)}"))
    names = data.others.get("classes")
    if names is not None and class_names(data, prediction.shape[-1]) is None:
        wanted = f"{prediction.shape[-1]} names, one for each output"
        lines.append(("classes", f"not used: expected {wanted}; the file has shape {shape_text(names.shape)}, {names.dtype}"))
    stored = data.others.get("keras_prediction")
    if stored is not None and stored.shape == prediction.shape and stored.dtype.kind == "f":
        difference = float(np.abs(prediction.astype(np.float64) - stored).max(initial=0))
        lines.append(("difference", f"{difference:.1e} at most from the file's keras_prediction"))
    return lines


def speed(count: int, seconds: float, unit: str = "sequence") -> tuple[str, str]:
    """How long the prediction took; ``unit``: what is counted."""
    return "speed", f"{count / max(seconds, 1e-9):,.0f} {unit}s/s ({_counted(count, unit)} in {human_seconds(seconds)})"


# -- installation -------------------------------------------------------------------------------------------------------
def installation_text(config: dict[str, Any]) -> str:
    """The page of ``fastlstm doctor`` for a dict of ``selector.config()``."""
    lines = []
    for key, value in config.items():
        if key == "extras":
            continue
        text = ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
        lines.append((key.replace("_", " "), text))
    rows = []
    for package, version in config["extras"].items():
        if package in _EXTRAS or version:
            extra, use = _EXTRAS.get(package, ("", ""))
            rows.append([package, version or f"absent: pip install '{extra}'", use])
    return f"{facts(lines)}\n\n{table(rows, ('extra', 'version', 'used for'))}"
