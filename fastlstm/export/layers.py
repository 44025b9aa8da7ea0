"""Layers of Keras as Operations of C: which ones can be exported, and how each calculates one sample.

In terms of ``pieces``; called by ``export_c`` with the layers of a Sequential, their shapes and whether a mask arrives. A layer
that cannot be exported raises Unsupported with the reason, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import activations
from ..backends.cpu import ACTIVATION_NUMBERS
from ..layers import (
    ELU,
    LSTM,
    Activation,
    AveragePooling1D,
    BatchNormalization,
    Bidirectional,
    Conv1D,
    ConvLSTM1D,
    Dense,
    Dropout,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    Layer,
    Masking,
    MaxPooling1D,
    RepeatVector,
    Reshape,
    Softmax,
    SpatialDropout1D,
    TimeDistributed,
    windows,
)
from ..spec import conv_rows
from .pieces import Input, Operation, Piece, Place, Unsupported, literal, numbers, positions
from .simple import RECTIFIED, RESHAPING, activated, rectified, repeated, reshaped_each

IDENTITY = (Dropout, SpatialDropout1D, GaussianDropout, GaussianNoise)
NAMES = (
    "LSTM, ConvLSTM1D, Bidirectional of these, Dense, TimeDistributed(Dense), Conv1D, Activation, ReLU, LeakyReLU, ELU, Softmax, "
    "Masking, BatchNormalization, Flatten, Reshape, RepeatVector, MaxPooling1D, AveragePooling1D, GlobalMaxPooling1D, "
    "GlobalAveragePooling1D, Dropout and its kin"
)


def operation(layer: Layer, name: str, given: Input, dtype: np.dtype) -> Operation:
    """The Operation of a built ``layer`` called ``name`` (a C identifier). Unsupported with the reason where there is none."""
    if layer.compute_dtype not in ("float32", "float64") or layer.variable_dtype != layer.compute_dtype:
        raise Unsupported(f"its dtype policy {layer.dtype_policy.name!r} does not calculate in float32 or float64")
    if isinstance(layer, IDENTITY):
        return Operation("nothing in inference", given.shape, given.shape)
    for kinds, make in MAKERS.items():
        if type(layer) in kinds:
            return make(layer, name, given, dtype)
    raise Unsupported(f"{type(layer).__name__} cannot be exported; these can: {NAMES}")


def activation_of(function: Any, elementwise: bool) -> str:
    """``FASTLSTM_TANH`` of an activation. Unsupported for a caller's own function, or one over an axis where it may not be."""
    name = activations.name_of(function)
    if name is None or name not in ACTIVATION_NUMBERS:
        raise Unsupported(f"its activation {name or function!r} is none of the C library's")
    if elementwise and not activations.is_elementwise(function):
        raise Unsupported(f"its activation {name!r} acts over an axis, which a recurrent layer of the C library cannot")
    return f"FASTLSTM_{name.upper()}"


def weights_of(layer: Any, names: tuple[str, ...], dtype: np.dtype) -> dict[str, np.ndarray | None]:
    """The arrays of a layer (or cell) by name in ``dtype``, None where it has none. Unsupported for NaN and infinities."""
    arrays: dict[str, np.ndarray | None] = {}
    for name in names:
        variable = getattr(layer, name)
        arrays[name] = array = None if variable is None else np.ascontiguousarray(variable.value, dtype)
        if array is not None and not np.isfinite(array).all():
            raise Unsupported(f"its {name} holds NaN or infinities, or numbers that {dtype} does not hold")
    return arrays


# -- recurrent layers ---------------------------------------------------------------------------------------------------
def recurrent_piece(layer: Any, name: str, given: Input, dtype: np.dtype) -> Piece:
    """The packed layer of an LSTM or ConvLSTM1D."""
    if layer.stateful:
        raise Unsupported("it is stateful: make it with stateful=False; the exported step function keeps states between calls")
    if layer.return_state:
        raise Unsupported("it returns its states (return_state=True)")
    cell = layer.cell
    spec = cell.make_spec(return_sequences=bool(layer.return_sequences), go_backwards=bool(layer.go_backwards))
    fields: dict[str, str | int] = {
        "activation": activation_of(cell.activation, True),
        "recurrent_activation": activation_of(cell.recurrent_activation, True),
    }
    for flag in ("go_backwards", "return_sequences", "zero_output_for_mask"):
        fields[flag] = int(bool(getattr(layer, flag)))
    arrays = weights_of(cell, ("kernel", "recurrent_kernel", "bias"), dtype)
    if isinstance(layer, LSTM):
        return Piece("lstm", name, (given.shape[1], spec.units), fields, arrays)
    if cell.channels_first:
        raise Unsupported('its data_format is "channels_first"')
    rows = spec.rows(given.shape[1])
    fields["strides"], fields["dilation_rate"] = rows.stride, rows.dilation
    fields["padding"] = f"FASTLSTM_{spec.padding.upper()}"
    sizes = (given.shape[1], given.shape[2], spec.units, spec.kernel_size)
    return Piece("convlstm1d", name, sizes, fields, arrays, (rows.rows_in, rows.rows_out, rows.padded_rows))


def after_recurrent(piece: Piece, given: Input) -> tuple[int, ...]:
    state = (piece.width,) if piece.kind == "lstm" else (piece.rows[1], piece.width)
    return (given.shape[0], *state) if piece.fields["return_sequences"] else state


def recurrent_lines(piece: Piece, place: Place) -> list[str]:
    """A whole run, or one step with the states that the model keeps."""
    kind, name = piece.kind, piece.name
    if not place.stepping:
        return run_lines(piece, place.source, place.target, place)
    call = f"fastlstm_{kind}_step_@(&model->{name}, 1, {place.source}, model->{name}_h, model->{name}_c, WORKSPACE)"
    copy = f"memcpy({place.target}, model->{name}_h, {piece.states} * sizeof(real));"
    if not place.masked:
        return [f"TRY({call});", copy]
    only_valid = f"if (valid && (status = {call}) != FASTLSTM_OK) return status;"
    if not piece.fields["zero_output_for_mask"]:
        return [only_valid, copy]
    return [only_valid, copy, f"if (!valid) memset({place.target}, 0, {piece.states} * sizeof(real));"]


def run_lines(piece: Piece, source: str, target: str, place: Place) -> list[str]:
    return [
        "memset(&arrays, 0, sizeof arrays);",
        "arrays.batch = 1;",
        f"arrays.steps = {place.steps};",
        f"arrays.x = {source};",
        *(["arrays.mask = model->mask;"] if place.masked else []),
        f"arrays.y = {target};",
        f"TRY(fastlstm_{piece.kind}_run_@(&model->{piece.name}, &arrays, WORKSPACE));",
    ]


def recurrent(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    piece = recurrent_piece(layer, name, given, dtype)
    whole = "it goes backwards over time" if piece.fields["go_backwards"] else None
    if not given.timed:
        whole = "it runs over an axis that is not the model's time"
    sequences = bool(piece.fields["return_sequences"])
    return Operation(
        type(layer).__name__,
        given.shape,
        after_recurrent(piece, given),
        lambda place: recurrent_lines(piece, place),
        [piece],
        whole=whole,
        ends_time=not sequences,
        ends_mask=not sequences,
    )


def bidirectional(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    """Both layers into the third buffer, the backward outputs turned round in time, then merged."""
    if layer.merge_mode is None:
        raise Unsupported("its merge_mode is None: it has two outputs")
    for inner in (layer.forward_layer, layer.backward_layer):
        if type(inner) not in (LSTM, ConvLSTM1D):
            raise Unsupported(f"it holds a {type(inner).__name__}")
    one = recurrent_piece(layer.forward_layer, f"{name}_forward", given, dtype)
    two = recurrent_piece(layer.backward_layer, f"{name}_backward", given, dtype)
    shapes = after_recurrent(one, given), after_recurrent(two, given)
    sequences = bool(one.fields["return_sequences"])
    merge, widths = layer.merge_mode, (one.width, two.width)
    after = (*shapes[0][:-1], sum(widths)) if merge == "concat" else shapes[0]
    outer = given.shape[0] if sequences else 1  # steps that are turned round
    inner_rows = numbers(shapes[0][:-1]) // outer

    def lines(place: Place) -> list[str]:
        second = f"model->scratch + {numbers(shapes[0])}"
        merged = f"{outer}, {inner_rows}, {widths[0]}, {widths[1]}, model->scratch, {second}, {place.target});"
        call = f"PREFIX_concatenate({merged}" if merge == "concat" else f"PREFIX_merge('{merge[0]}', {merged}"
        return [*run_lines(one, place.source, "model->scratch", place), *run_lines(two, place.source, second, place), call]

    return Operation(
        f"Bidirectional({type(layer.forward_layer).__name__})",
        given.shape,
        after,
        lines,
        [one, two],
        helpers=("concatenate",) if merge == "concat" else ("merge",),
        whole="it goes backwards over time",
        scratch=numbers(shapes[0]) + numbers(shapes[1]),
        ends_time=not sequences,
        ends_mask=not sequences,
    )


# -- layers that take each position by itself ---------------------------------------------------------------------------
def dense(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    arrays = weights_of(layer, ("kernel", "bias"), dtype)
    fields: dict[str, str | int] = {"activation": activation_of(layer.activation, False)}
    piece = Piece("dense", name, (given.shape[-1], layer.units), fields, arrays)

    def lines(place: Place) -> list[str]:
        return [f"TRY(fastlstm_dense_run_@(&model->{name}, {positions(place, given)}, {place.source}, {place.target}));"]

    return Operation("Dense", given.shape, (*given.shape[:-1], layer.units), lines, [piece])


def time_distributed(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    inner = layer.layer
    if type(inner) in RESHAPING:
        return reshaped_each(inner, given)
    if isinstance(inner, IDENTITY):
        return Operation("nothing in inference", given.shape, given.shape)
    if type(inner) not in (Dense, Activation, ELU, *RECTIFIED):
        held = "Dense, Flatten, Reshape, Dropout and activations"
        raise Unsupported(f"it holds a {type(inner).__name__}: only {held} can be exported inside it")
    made = operation(inner, name, given, dtype)
    made.title = f"TimeDistributed({type(inner).__name__})"
    return made


def activation(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    number, width = activation_of(layer.activation, False), given.shape[-1]

    def lines(place: Place) -> list[str]:
        count = positions(place, given)
        return [
            f"memcpy({place.target}, {place.source}, {count * width} * sizeof(real));",
            f"TRY(fastlstm_activate_@({number}, {place.target}, {count}, {width}));",
        ]

    return Operation("Activation", given.shape, given.shape, lines)


def masking(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    if not given.timed or len(given.shape) != 2:
        raise Unsupported("it masks an input that is not [steps, features]")
    width = given.shape[1]
    value = literal(layer.mask_value, dtype)

    def lines(place: Place) -> list[str]:
        if place.stepping:
            return [f"valid = PREFIX_mask(1, {width}, {value}, {place.source}, model->mask, {place.target});"]
        return [f"PREFIX_mask({place.steps}, {width}, {value}, {place.source}, model->mask, {place.target});"]

    return Operation("Masking", given.shape, given.shape, lines, helpers=("mask",), makes_mask=True)


def batch_normalization(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    """With the moving statistics: x * scale + shift, as fastlstm.layers.normalization calculates them."""
    if layer.axis % (len(given.shape) + 1) != len(given.shape):
        raise Unsupported(f"it normalizes axis {layer.axis}, and not the last one")
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    mean, variance, gamma, beta = weights_of(layer, names, dtype).values()
    assert mean is not None
    assert variance is not None
    scale = 1 / np.sqrt(variance + dtype.type(layer.epsilon))
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if beta is None else -mean * scale + beta
    width = given.shape[-1]
    constants = {f"{name}_scale": scale.astype(dtype), f"{name}_shift": shift.astype(dtype)}

    def lines(place: Place) -> list[str]:
        arrays = f"PREFIX_{name}_scale, PREFIX_{name}_shift, {place.source}, {place.target}"
        return [f"PREFIX_scale_shift({positions(place, given)}, {width}, {arrays});"]

    return Operation("BatchNormalization", given.shape, given.shape, lines, constants=constants, helpers=("scale_shift",))


# -- layers that need all steps -----------------------------------------------------------------------------------------
def needs_all(given: Input) -> str | None:
    return "it needs all steps at once" if given.timed else None


def reshaping(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    if getattr(layer, "data_format", "channels_last") != "channels_last" and len(given.shape) > 1:
        raise Unsupported('its data_format is "channels_first"')
    after = tuple(layer.compute_output_shape((None, *given.shape))[1:])
    return Operation(type(layer).__name__, given.shape, after, whole=needs_all(given), ends_time=given.timed, ends_mask=True)


def convolution(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    if layer.data_format != "channels_last" or layer.groups != 1:
        raise Unsupported(f"its data_format is {layer.data_format!r}, its groups {layer.groups}: only channels_last, 1 can be")
    rows, channels = given.shape
    taps, stride, dilation = layer.kernel_size[0], layer.strides[0], layer.dilation_rate[0]
    reach = (taps - 1) * dilation
    padded = rows + reach if layer.padding == "causal" else conv_rows(rows, taps, stride, dilation, layer.padding).padded_rows
    fields: dict[str, str | int] = {"strides": stride, "dilation_rate": dilation, "padding": f"FASTLSTM_{layer.padding.upper()}"}
    fields["activation"] = activation_of(layer.activation, False)
    after = tuple(layer.compute_output_shape((None, *given.shape))[1:])
    sizes = (rows, channels, layer.filters, taps)
    piece = Piece("conv1d", name, sizes, fields, weights_of(layer, ("kernel", "bias"), dtype), (rows, after[0], padded))

    def lines(place: Place) -> list[str]:
        return [f"TRY(fastlstm_conv1d_run_@(&model->{name}, 1, {place.source}, {place.target}, WORKSPACE));"]

    return Operation("Conv1D", given.shape, after, lines, [piece], whole=needs_all(given), ends_mask=True)


def pooling(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    if layer.data_format != "channels_last":
        raise Unsupported('its data_format is "channels_first"')
    after = tuple(layer.compute_output_shape((None, *given.shape))[1:])
    size, stride = layer.pool_size[0], layer.strides[0]
    left, _ = windows.pads(given.shape[0], size, stride, 1, layer.padding)
    which = "max" if isinstance(layer, MaxPooling1D) else "average"

    def lines(place: Place) -> list[str]:
        sizes = f"{given.shape[0]}, {given.shape[1]}, {after[0]}, {size}, {stride}, {left}"
        return [f"PREFIX_{which}_pool({sizes}, {place.source}, {place.target});"]

    title = type(layer).__name__
    return Operation(title, given.shape, after, lines, helpers=(f"{which}_pool",), whole=needs_all(given), ends_mask=True)


def global_pooling(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    if layer.data_format != "channels_last":
        raise Unsupported('its data_format is "channels_first"')
    steps, width = given.shape
    after = tuple(layer.compute_output_shape((None, *given.shape))[1:])
    masked = given.masked

    def lines(place: Place) -> list[str]:
        if isinstance(layer, GlobalMaxPooling1D):
            return [f"PREFIX_max_pool({steps}, {width}, 1, {steps}, 1, 0, {place.source}, {place.target});"]
        mask = "model->mask" if masked else "NULL"
        return [f"PREFIX_average({steps}, {width}, {mask}, {place.source}, {place.target});"]

    helper = "max_pool" if isinstance(layer, GlobalMaxPooling1D) else "average"
    return Operation(
        type(layer).__name__,
        given.shape,
        after,
        lines,
        helpers=(helper,),
        whole=needs_all(given),
        ends_time=not layer.keepdims,
        ends_mask=True,
    )


MAKERS: dict[tuple[type, ...], Callable[[Any, str, Input, np.dtype], Operation]] = {
    (LSTM, ConvLSTM1D): recurrent,
    (Bidirectional,): bidirectional,
    (Dense,): dense,
    (TimeDistributed,): time_distributed,
    (Activation,): activation,
    RECTIFIED: rectified,
    (ELU, Softmax): activated,
    (RepeatVector,): repeated,
    (Masking,): masking,
    (BatchNormalization,): batch_normalization,
    (Flatten, Reshape): reshaping,
    (Conv1D,): convolution,
    (MaxPooling1D, AveragePooling1D): pooling,
    (GlobalAveragePooling1D, GlobalMaxPooling1D): global_pooling,
}
