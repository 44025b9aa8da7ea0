"""The constructor of ConvLSTM1D: arguments, defaults, what is refused and when, the variables that it makes (keras-spec 1, 4)."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from convlstm_formulas import C, F, K, R, geometry

from fastlstm import ConvLSTM1D, activations, initializers, settings
from fastlstm.layers.convlstm1d import ConvLSTM1DCell

CONVOLUTION = [("strides", 1), ("padding", "valid"), ("data_format", None), ("dilation_rate", 1)]
SHARED = [
    ("activation", "tanh"),
    ("recurrent_activation", "sigmoid"),
    ("use_bias", True),
    ("kernel_initializer", "glorot_uniform"),
    ("recurrent_initializer", "orthogonal"),
    ("bias_initializer", "zeros"),
    ("unit_forget_bias", True),
    ("kernel_regularizer", None),
    ("recurrent_regularizer", None),
    ("bias_regularizer", None),
    ("activity_regularizer", None),
    ("kernel_constraint", None),
    ("recurrent_constraint", None),
    ("bias_constraint", None),
    ("dropout", 0.0),
    ("recurrent_dropout", 0.0),
    ("seed", None),
]
FLAGS = [(flag, False) for flag in ("return_sequences", "return_state", "go_backwards", "stateful")]
EMPTY = inspect.Parameter.empty
SIGNATURE = [("filters", EMPTY), ("kernel_size", EMPTY), *CONVOLUTION, *SHARED, *FLAGS]
CELL_SIGNATURE = [pair for pair in SIGNATURE if pair[0] != "activity_regularizer" and pair not in FLAGS]


def built(*args, rows=R, channels=C, **kwargs):
    layer = ConvLSTM1D(*(args or (F, K)), **kwargs)
    layer.build(geometry(rows, None, channels, layer.data_format == "channels_first"))
    return layer


# -- signature and defaults ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("cls", "expected"), [(ConvLSTM1D, SIGNATURE), (ConvLSTM1DCell, CELL_SIGNATURE)])
def test_signature_in_order_with_defaults(cls, expected):
    parameters = [p for p in inspect.signature(cls).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in parameters] == expected


def test_every_argument_by_position():
    values = [5, 2, 3, "same", "channels_first", 1, "relu", "hard_sigmoid", False, "ones", "zeros", "ones", False, "l1", "l2"]
    values += ["l1l2", "l2", "max_norm", "non_neg", "unit_norm", 0.25, 0.5, 7, True, True, True, True]
    layer = ConvLSTM1D(*values)
    config = layer.get_config()
    assert (layer.filters, layer.kernel_size, layer.strides, layer.padding) == (5, (2,), (3,), "same")
    assert (layer.data_format, layer.dilation_rate) == ("channels_first", (1,))
    assert (config["activation"], config["recurrent_activation"]) == ("relu", "hard_sigmoid")
    assert (layer.use_bias, layer.unit_forget_bias) == (False, False)
    names = [config[f"{part}_initializer"]["class_name"] for part in ("kernel", "recurrent", "bias")]
    assert names == ["Ones", "Zeros", "Ones"]
    names = [config[f"{part}_regularizer"]["class_name"] for part in ("kernel", "recurrent", "bias", "activity")]
    assert names == ["L1", "L2", "L1L2", "L2"]
    names = [config[f"{part}_constraint"]["class_name"] for part in ("kernel", "recurrent", "bias")]
    assert names == ["MaxNorm", "NonNeg", "UnitNorm"]
    assert (layer.dropout, layer.recurrent_dropout, layer.seed) == (0.25, 0.5, 7)
    assert all(getattr(layer, flag) is True for flag, _ in FLAGS)
    assert (layer.unroll, layer.zero_output_for_mask) == (False, False)


def test_default_attributes():
    layer = ConvLSTM1D(F, K)
    assert (layer.activation, layer.recurrent_activation) == (activations.tanh, activations.sigmoid)
    assert isinstance(layer.kernel_initializer, initializers.GlorotUniform)
    assert isinstance(layer.recurrent_initializer, initializers.Orthogonal)
    assert isinstance(layer.bias_initializer, initializers.Zeros)
    assert (layer.strides, layer.padding, layer.data_format, layer.dilation_rate) == ((1,), "valid", "channels_last", (1,))
    assert (layer.states, layer.input_spec.ndim, layer.supports_masking, layer.built, layer.weights) == (None, 4, True, False, [])
    assert (layer.cell.name, layer.cell.state_size) == ("conv_lstm_cell", [F, F])
    assert (layer.name + "x").startswith("conv_lstm1d")


def test_data_format_of_the_settings():
    settings.set_image_data_format("channels_first")
    try:
        layer = ConvLSTM1D(F, K)
    finally:
        settings.set_image_data_format("channels_last")
    assert layer.data_format == layer.get_config()["data_format"] == "channels_first"
    assert ConvLSTM1D(F, K, data_format=None).data_format == "channels_last"


def test_both_flags_of_a_sequence_that_are_keywords_only():
    layer = ConvLSTM1D(F, K, unroll=True, zero_output_for_mask=True)
    assert (layer.unroll, layer.zero_output_for_mask) == (True, True)


# -- filters ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("filters", [0, -1, -3])
def test_filters_are_checked_at_build(filters):
    layer = ConvLSTM1D(filters, K)
    with pytest.raises(ValueError, match=f"argument `filters`, expected a positive integer, got {filters}"):
        layer.build(geometry())


@pytest.mark.parametrize("filters", [2.5, 3.0, "4", None, [4]], ids=repr)
def test_filters_that_are_no_integer_are_refused_at_build(filters):
    layer = ConvLSTM1D(filters, K)
    with pytest.raises(ValueError, match="argument `filters`, expected an integer, got"):
        layer(np.ones((1, 2, R, C), np.float32))


@pytest.mark.parametrize(("filters", "width"), [(np.int32(3), 3), (np.uint8(200), 200), (True, 1)])
def test_other_integers_are_filters(filters, width):
    y, h, c = ConvLSTM1D(filters, 1, return_state=True)(np.ones((2, 3, 4, 1), np.float32))
    assert y.shape == h.shape == c.shape == (2, 4, width)


@pytest.mark.parametrize("filters", [10**6, 10**18])
def test_absurd_filters_are_refused_before_memory_is_asked_for(filters):
    with pytest.raises(ValueError, match="argument `filters`, expected weights of at most 2147483647 numbers"):
        built(filters, K)


@pytest.mark.parametrize("name", ["kernel_size", "strides", "dilation_rate"])
def test_sizes_beyond_what_the_kernels_count_are_refused(name):
    for value in (2**31, 10**30):
        with pytest.raises(ValueError, match=f"`{name}` argument must not be above 2147483647"):
            ConvLSTM1D(**{"filters": F, "kernel_size": K, name: value})


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_padding_that_no_memory_holds_is_refused_at_build(data_format):
    layer = ConvLSTM1D(F, K, dilation_rate=2**31 - 1, padding="same", data_format=data_format)
    with pytest.raises(ValueError, match="`dilation_rate`=2147483647"):
        layer.build((1, 2, R, C))


def test_an_input_without_rows_is_refused_at_build():
    with pytest.raises(ValueError, match="has no rows"):
        ConvLSTM1D(F, K, padding="same")(np.ones((1, 2, 0, C), np.float32))


# -- the convolution's arguments ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["kernel_size", "strides", "dilation_rate"])
def test_sizes_are_stored_as_tuples(name):
    for given in (1, (1,), [1], np.int64(1), np.array([1])):
        assert getattr(ConvLSTM1D(**{"filters": F, "kernel_size": 1, name: given}), name) == (1,)
    assert getattr(ConvLSTM1D(**{"filters": F, "kernel_size": 3, name: [2]}), name) == (2,)


@pytest.mark.parametrize("name", ["kernel_size", "strides", "dilation_rate"])
@pytest.mark.parametrize("bad", [-1, -2, (-1,), 3.5, (3, 3), (), [1, 2, 3], None, "3", ("a",), (None,), (2.5,)], ids=repr)
def test_sizes_that_are_refused_at_construction(name, bad):
    with pytest.raises(ValueError, match=f"`{name}` argument must be"):
        ConvLSTM1D(**{"filters": F, "kernel_size": K, name: bad})
    with pytest.raises(ValueError, match=f"`{name}` argument must be"):
        ConvLSTM1DCell(**{"filters": F, "kernel_size": K, name: bad})


@pytest.mark.parametrize("name", ["kernel_size", "dilation_rate"])
@pytest.mark.parametrize("zero", [0, (0,)])
def test_zero_sizes_are_refused_at_construction(name, zero):
    with pytest.raises(ValueError, match=f"`{name}` argument must be .* > 0"):
        ConvLSTM1D(**{"filters": F, "kernel_size": K, name: zero})


def test_strides_of_zero_fail_when_the_shape_is_computed():
    layer = ConvLSTM1D(F, K, strides=0)
    assert layer.strides == (0,)
    for call in (layer.compute_output_shape, layer.build):
        with pytest.raises(OverflowError, match="argument `strides`, expected a positive integer, got 0"):
            call(geometry())


@pytest.mark.parametrize(("strides", "dilation"), [(2, 2), ((3,), 2), (2, [5])])
def test_strides_and_dilation_both_above_1(strides, dilation):
    with pytest.raises(ValueError, match=r"`strides` > 1 cannot be combined with `dilation_rate` > 1. Received: strides=\(\d,\)"):
        ConvLSTM1D(F, K, strides=strides, dilation_rate=dilation)
    for one in ({"strides": strides}, {"dilation_rate": dilation}):
        assert ConvLSTM1D(F, K, **one).built is False


def test_padding():
    for given in ("SAME", "Same", "same"):
        assert ConvLSTM1D(F, K, padding=given).padding == "same"
    for bad in ("causal", "CAUSAL", "full", ""):
        with pytest.raises(ValueError, match=f"`padding` argument must be 'valid' or 'same'. Received: padding='{bad}'"):
            ConvLSTM1D(F, K, padding=bad)
    for bad in (None, 1, True):
        with pytest.raises(AttributeError, match=f"`padding` argument must be a string. Received: padding={bad}"):
            ConvLSTM1D(F, K, padding=bad)


@pytest.mark.parametrize("padding", [["same"], ("valid",), [1, 1]])
def test_padding_in_a_list_fails_at_the_call(padding):
    layer = ConvLSTM1D(F, K, padding=padding)
    with pytest.raises(ValueError, match="argument `padding`, expected 'valid' or 'same', got"):
        layer(np.ones((1, 2, R, C), np.float32))


def test_data_format():
    for given in ("channels_first", "Channels_First", "CHANNELS_FIRST"):
        assert ConvLSTM1D(F, K, data_format=given).data_format == "channels_first"
    for bad in ("first", "NCW", "", 1, ("channels_last",)):
        with pytest.raises(ValueError, match="`data_format` argument must be one of"):
            ConvLSTM1D(F, K, data_format=bad)


# -- the other arguments, as far as they are the convolution's own -----------------------------------------------------------
@pytest.mark.parametrize(
    "name", "use_cudnn implementation time_major batch_input_shape batch_shape weights units cell groups".split()
)
def test_unknown_keywords_are_refused(name):
    with pytest.raises(ValueError, match=f"Unrecognized keyword arguments passed to ConvLSTM1D: .*{name}"):
        ConvLSTM1D(F, K, **{name: True})
    with pytest.raises(ValueError, match=f"Unrecognized keyword arguments passed to ConvLSTM1DCell: .*{name}"):
        ConvLSTM1DCell(F, K, **{name: True})


@pytest.mark.parametrize("flag", ["return_sequences", "stateful", "unroll", "zero_output_for_mask"])
def test_the_cell_has_no_arguments_of_the_layer(flag):
    with pytest.raises(ValueError, match=flag):
        ConvLSTM1DCell(F, K, **{flag: True})


def test_required_arguments():
    for arguments in ((), (F,)):
        with pytest.raises(TypeError, match="kernel_size"):
            ConvLSTM1D(*arguments)


@pytest.mark.parametrize("argument", ["activation", "recurrent_activation", "kernel_initializer", "bias_regularizer"])
def test_unknown_names_are_refused_at_construction(argument):
    with pytest.raises(ValueError, match="Tanhh"):
        ConvLSTM1D(F, K, **{argument: "Tanhh"})


def test_rates_and_seed():
    layer = ConvLSTM1D(F, K, dropout=1.5, recurrent_dropout=-1, seed=7)
    assert (layer.dropout, layer.recurrent_dropout, layer.cell.seed_generator.state.tolist()) == (1.0, 0.0, [7, 0])
    with pytest.raises(TypeError, match="argument `dropout`, expected a number"):
        ConvLSTM1D(F, K, dropout=None)
    with pytest.raises(ValueError, match="`seed` must be an integer or None"):
        ConvLSTM1D(F, K, seed=1.0)


# -- variables ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_weights_have_the_same_names_shapes_and_order_in_both_formats(data_format):
    layer = built(name="first", data_format=data_format)
    assert [v.path for v in layer.weights] == [f"first/conv_lstm_cell/{n}" for n in ("kernel", "recurrent_kernel", "bias")]
    assert [v.shape for v in layer.weights] == [(K, C, 4 * F), (K, F, 4 * F), (4 * F,)]
    assert [layer.kernel, layer.recurrent_kernel, layer.bias] == layer.weights == layer.trainable_weights == layer.cell.weights
    assert layer.count_params() == 4 * F * (K * (C + F) + 1)


def test_the_recurrent_kernel_has_the_width_of_the_kernel():
    """Whatever strides, dilation and padding: they belong to the input convolution."""
    for options in ({"strides": 2}, {"dilation_rate": 2}, {"padding": "same"}):
        assert built(2, 4, rows=12, **options).recurrent_kernel.shape == (4, 2, 8)


def test_use_bias_false_has_no_bias_variable():
    layer = built(use_bias=False)
    assert [v.name for v in layer.weights] == ["kernel", "recurrent_kernel"]
    assert layer.bias is None


def test_default_initial_values():
    """Fans count the taps: fan_in K*C, fan_out K*4F."""
    kernel, recurrent, bias = built(32, 5, rows=9, channels=16).get_weights()
    limit = math.sqrt(6 / (5 * 16 + 5 * 128))
    assert 0.97 * limit < np.abs(kernel).max() <= limit
    columns = recurrent.reshape(5 * 32, 128)
    np.testing.assert_allclose(columns.T @ columns, np.eye(128), atol=1e-5)
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 32))


@pytest.mark.parametrize(
    ("kwargs", "blocks"),
    [
        ({"bias_initializer": "ones"}, [1, 1, 1, 1]),
        ({"bias_initializer": initializers.Constant(0.5)}, [0.5, 1, 0.5, 0.5]),
        ({"bias_initializer": initializers.Constant(0.5), "unit_forget_bias": False}, [0.5] * 4),
    ],
)
def test_forget_block_of_the_bias_is_exactly_one(kwargs, blocks):
    np.testing.assert_array_equal(built(**kwargs).bias.numpy(), np.repeat(blocks, F))


def test_bias_initializer_none():
    with pytest.raises(TypeError, match="bias_initializer"):
        built(bias_initializer=None)
    assert built(bias_initializer=None, use_bias=False).bias is None


@pytest.mark.parametrize("trainable", [True, False])
def test_trainable(trainable):
    layer = built(trainable=trainable)
    assert layer.trainable_weights == (layer.weights if trainable else [])
    assert layer.non_trainable_weights == ([] if trainable else layer.weights)
    layer.trainable = not trainable
    assert layer.trainable_weights == ([] if trainable else layer.weights)


@pytest.mark.parametrize(
    ("dtype", "compute", "variable"),
    [(None, "float32", "float32"), ("float64", "float64", "float64"), ("mixed_bfloat16", "bfloat16", "float32")],
)
def test_dtype_policies(dtype, compute, variable):
    layer = built(dtype=dtype)
    assert (layer.compute_dtype, layer.variable_dtype, layer.cell.compute_dtype) == (compute, variable, compute)
    assert {v.dtype.name for v in layer.weights} == {variable}
    with pytest.raises(ValueError, match="argument `dtype`='int32'"):
        built(dtype="int32")


# -- build ----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("what", "rows", "channels"), [("rows", None, C), ("channels", R, None)])
def test_unknown_rows_or_channels(what, rows, channels, first):
    layer = ConvLSTM1D(F, K, name="layer", data_format="channels_first" if first else "channels_last")
    with pytest.raises(ValueError, match=f'The {what} of the input of layer "conv_lstm_cell" must be known at build'):
        layer.build(geometry(rows, None, channels, first))
    assert not layer.built


@pytest.mark.parametrize("shape", [(None, R, C), (R, C), (1, 2, 3, 4, 5), (None, 5, -3, C), (2, 5, R, 2.5)])
def test_build_and_output_shape_refuse_impossible_shapes(shape):
    for call in (ConvLSTM1D(F, K).build, ConvLSTM1D(F, K).compute_output_shape):
        with pytest.raises(ValueError, match=r"expected ndim=4|`input_shape` must hold"):
            call(shape)


@pytest.mark.parametrize(("taps", "dilation", "reach"), [(8, 1, 8), (4, 3, 10), (2, 7, 8)])
def test_too_few_rows_for_a_valid_convolution(taps, dilation, reach):
    message = rf"too few rows .* expected at least {reach} \(kernel_size={taps}, dilation_rate={dilation}\), got {R}"
    for use in (
        lambda layer: layer.build(geometry()),
        lambda layer: layer.compute_output_shape(geometry()),
        lambda layer: layer(np.ones((1, 2, R, C), np.float32)),
    ):
        with pytest.raises(ValueError, match=message):
            use(ConvLSTM1D(F, taps, dilation_rate=dilation))
    assert built(F, taps, dilation_rate=dilation, rows=reach).compute_output_shape((2, 3, reach, C)) == (2, 1, F)
    assert built(F, taps, dilation_rate=dilation, padding="same").compute_output_shape((2, 3, R, C)) == (2, R, F)


def test_build_of_a_stateful_layer_needs_the_batch_size():
    with pytest.raises(ValueError, match="batch size must be static"):
        ConvLSTM1D(F, K, stateful=True).build(geometry())
