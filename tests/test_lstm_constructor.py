"""The constructor of LSTM and LSTMCell: arguments, defaults, what is refused, the variables that it makes (keras-spec 1, 3)."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from fastlstm import LSTM, LSTMCell, activations, constraints, initializers, regularizers

CELL_SIGNATURE = [
    ("units", inspect.Parameter.empty),
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
    ("kernel_constraint", None),
    ("recurrent_constraint", None),
    ("bias_constraint", None),
    ("dropout", 0.0),
    ("recurrent_dropout", 0.0),
    ("seed", None),
]
FLAG_SIGNATURE = [(flag, False) for flag in ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")]
SIGNATURE = [*CELL_SIGNATURE[:11], ("activity_regularizer", None), *CELL_SIGNATURE[11:], *FLAG_SIGNATURE, ("use_cudnn", "auto")]

D, U = 3, 4


def built(*args, **kwargs):
    layer = LSTM(*(args or (U,)), **kwargs)
    layer.build((None, None, D))
    return layer


# -- signature and defaults -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("cls", "expected"), [(LSTM, SIGNATURE), (LSTMCell, CELL_SIGNATURE)])
def test_signature_in_order_with_defaults(cls, expected):
    parameters = [p for p in inspect.signature(cls).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in parameters] == expected


def test_every_argument_by_position():
    values = [5, "relu", "hard_sigmoid", False, "ones", "zeros", "ones", False, "l1", "l2", "l1l2", "l2", "max_norm", "non_neg"]
    values += ["unit_norm", 0.25, 0.5, 7, True, True, True, True, True, False]
    layer = LSTM(*values)
    config = layer.get_config()
    assert (layer.units, config["activation"], config["recurrent_activation"]) == (5, "relu", "hard_sigmoid")
    assert (layer.use_bias, layer.unit_forget_bias, layer.use_cudnn) == (False, False, False)
    names = [config[f"{part}_initializer"]["class_name"] for part in ("kernel", "recurrent", "bias")]
    assert names == ["Ones", "Zeros", "Ones"]
    names = [config[f"{part}_regularizer"]["class_name"] for part in ("kernel", "recurrent", "bias", "activity")]
    assert names == ["L1", "L2", "L1L2", "L2"]
    names = [config[f"{part}_constraint"]["class_name"] for part in ("kernel", "recurrent", "bias")]
    assert names == ["MaxNorm", "NonNeg", "UnitNorm"]
    assert (layer.dropout, layer.recurrent_dropout, layer.seed) == (0.25, 0.5, 7)
    for flag, _ in FLAG_SIGNATURE:
        assert getattr(layer, flag) is True


def test_default_attributes():
    layer = LSTM(U)
    assert layer.activation is activations.tanh
    assert layer.recurrent_activation is activations.sigmoid
    assert isinstance(layer.kernel_initializer, initializers.GlorotUniform)
    assert isinstance(layer.recurrent_initializer, initializers.Orthogonal)
    assert isinstance(layer.bias_initializer, initializers.Zeros)
    assert (layer.state_size, layer.cell.output_size, layer.input_spec.ndim) == ([U, U], U, 3)
    assert (layer.states, layer.zero_output_for_mask, layer.implementation, layer.supports_masking) == (None, False, 2, True)
    assert (layer.dtype, layer.compute_dtype, layer.trainable, layer.built, layer.weights) == (
        "float32",
        "float32",
        True,
        False,
        [],
    )


# -- units ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", [LSTM, LSTMCell])
@pytest.mark.parametrize(
    ("units", "error"),
    [(0, ValueError), (-1, ValueError), (-2.5, ValueError), (False, ValueError)]
    + [(bad, TypeError) for bad in ("4", None, 1j, [4], np.array([1, 2]))],
    ids=repr,
)
def test_units_refused_at_construction(cls, units, error):
    with pytest.raises(error, match="argument `units`, expected a positive integer, got"):
        cls(units)


@pytest.mark.parametrize("units", [2.5, 3.0, float("nan"), np.float32(3)])
def test_units_that_are_no_integer_are_refused_at_build(units):
    with pytest.raises(ValueError, match="argument `units`, expected an integer, got"):
        LSTM(units).build((None, None, D))


@pytest.mark.parametrize(("units", "width"), [(np.int32(3), 3), (np.uint8(200), 200), (True, 1)])
def test_other_integers_are_units(units, width):
    y, h, c = LSTM(units, return_state=True)(np.ones((2, 3, D), np.float32))
    assert y.shape == h.shape == c.shape == (2, width)


@pytest.mark.parametrize("units", [10**6, 10**9, 10**18, 10**30])
def test_absurd_units_are_refused_before_memory_is_asked_for(units):
    with pytest.raises(ValueError, match=r"argument `units`, expected weights of at most 2147483647 numbers, got units=10"):
        LSTM(units).build((None, None, D))


# -- activations ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("argument", ["activation", "recurrent_activation"])
def test_activation_forms(argument):
    def own(x):
        return x

    leaky = {"module": "keras.activations", "class_name": "function", "config": "leaky_relu", "registered_name": "leaky_relu"}
    for given, expected in [(None, activations.linear), ("swish", activations.silu), (own, own), (leaky, activations.leaky_relu)]:
        assert getattr(LSTM(U, **{argument: given}), argument) is expected
    for unknown in ("Tanh", "nothing", 3):
        with pytest.raises(ValueError, match="activation"):
            LSTM(U, **{argument: unknown})


# -- variables ------------------------------------------------------------------------------------------------------
def test_weights_have_keras_names_shapes_and_order():
    layer = built(name="first")
    assert [v.path for v in layer.weights] == [f"first/lstm_cell/{n}" for n in ("kernel", "recurrent_kernel", "bias")]
    assert [v.name for v in layer.weights] == ["kernel", "recurrent_kernel", "bias"]
    assert [v.shape for v in layer.weights] == [(D, 4 * U), (U, 4 * U), (4 * U,)]
    assert [layer.kernel, layer.recurrent_kernel, layer.bias] == layer.weights == layer.cell.weights
    assert layer.trainable_weights == layer.weights
    assert layer.non_trainable_weights == []
    assert layer.cell.name == "lstm_cell"


def test_use_bias_false_has_no_bias_variable():
    layer = built(use_bias=False)
    assert [v.name for v in layer.weights] == ["kernel", "recurrent_kernel"]
    assert layer.cell.bias is None


def test_default_initial_values():
    kernel, recurrent, bias = built(64).get_weights()
    limit = math.sqrt(6 / (D + 4 * 64))
    assert 0.97 * limit < np.abs(kernel).max() <= limit
    assert np.abs(kernel.mean()) < 0.1 * limit
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(64), atol=1e-5)
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 64))


@pytest.mark.parametrize(
    ("kwargs", "blocks"),
    [
        ({"bias_initializer": "ones"}, [1, 1, 1, 1]),
        ({"bias_initializer": initializers.Constant(0.5)}, [0.5, 1, 0.5, 0.5]),
        ({"bias_initializer": initializers.Constant(0.5), "unit_forget_bias": False}, [0.5, 0.5, 0.5, 0.5]),
        ({"unit_forget_bias": False}, [0, 0, 0, 0]),
    ],
)
def test_forget_block_of_the_bias_is_exactly_one(kwargs, blocks):
    np.testing.assert_array_equal(built(**kwargs).bias.numpy(), np.repeat(blocks, U))


def test_bias_initializer_is_called_for_one_and_for_two_blocks():
    shapes = []

    def initializer(shape, dtype=None):
        shapes.append(tuple(shape))
        return np.zeros(shape, dtype)

    built(bias_initializer=initializer)
    assert shapes == [(U,), (2 * U,)]


def test_bias_initializer_none():
    with pytest.raises(TypeError, match="bias_initializer"):
        built(bias_initializer=None)
    assert built(bias_initializer=None, use_bias=False).bias is None
    bias = built(bias_initializer=None, unit_forget_bias=False).bias.numpy()
    assert 0 < np.abs(bias).max() <= math.sqrt(6 / (8 * U))


def test_other_initializers_none_mean_glorot_uniform():
    layer = built(64, kernel_initializer=None, recurrent_initializer=None)
    assert layer.kernel_initializer is None
    for variable, rows in ((layer.kernel, D), (layer.recurrent_kernel, 64)):
        limit = math.sqrt(6 / (rows + 256))
        assert 0.95 * limit < np.abs(variable.numpy()).max() <= limit


@pytest.mark.parametrize(
    "given",
    [
        "Ones",
        "ones",
        "one",
        {"module": "keras.initializers", "class_name": "Ones", "config": {}, "registered_name": None},
        initializers.Ones(),
        initializers.Ones,
        lambda shape, dtype=None: np.ones(shape, dtype),
    ],
    ids=repr,
)
def test_initializer_forms(given):
    layer = built(kernel_initializer=given, recurrent_initializer=given)
    np.testing.assert_array_equal(layer.kernel.numpy(), np.ones((D, 4 * U)))
    np.testing.assert_array_equal(layer.recurrent_kernel.numpy(), np.ones((U, 4 * U)))


def test_array_as_initializer():
    array = np.arange(D * 4 * U, dtype=np.float32).reshape(D, 4 * U)
    np.testing.assert_array_equal(built(kernel_initializer=array).kernel.numpy(), array)
    with pytest.raises(ValueError, match="shape"):
        built(kernel_initializer=array[:2])


@pytest.mark.parametrize("part", ["kernel", "recurrent", "bias"])
def test_unknown_names_are_refused_at_construction(part):
    for suffix, name in [("initializer", "Zeroes"), ("regularizer", "l1_l2"), ("constraint", "maxnorm")]:
        with pytest.raises(ValueError, match=name):
            LSTM(U, **{f"{part}_{suffix}": name})
    with pytest.raises(ValueError, match="l1_l2"):
        LSTM(U, activity_regularizer="l1_l2")


def test_seeded_initializer_gives_the_same_weights_again():
    kernels = [built(kernel_initializer=initializers.RandomNormal(seed=3)).kernel.numpy() for _ in range(2)]
    np.testing.assert_array_equal(*kernels)
    assert (built().kernel.numpy() != built().kernel.numpy()).any()


def test_regularizers_and_constraints_sit_on_the_variables():
    layer = built(
        kernel_regularizer="l2",
        recurrent_regularizer=regularizers.L1(0.5),
        bias_regularizer={"module": "keras.regularizers", "class_name": "L1L2", "config": {"l1": 0.25}, "registered_name": None},
        kernel_constraint="NonNeg",
        recurrent_constraint=constraints.MaxNorm(3),
        bias_constraint=lambda w: w / 2,
    )
    assert [v.regularizer(np.full((2, 2), 3.0)) for v in layer.weights] == pytest.approx([0.01 * 36, 0.5 * 12, 0.25 * 12])
    np.testing.assert_array_equal(layer.kernel.constraint(np.array([-1.0, 2.0])), [0, 2])
    assert layer.recurrent_kernel.constraint is layer.recurrent_constraint
    np.testing.assert_array_equal(layer.bias.constraint(np.array([4.0])), [2])
    np.testing.assert_array_equal(layer.bias.numpy(), np.repeat([0, 1, 0, 0], U))  # constraints are not applied at build


# -- rates, seed, flags -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("argument", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize(("given", "stored"), [(1.5, 1.0), (-1, 0.0), (0, 0.0), (1, 1.0), (0.25, 0.25), (float("nan"), 0.0)])
def test_rates_are_clipped(argument, given, stored):
    layer = LSTM(U, **{argument: given})
    assert getattr(layer, argument) == layer.get_config()[argument] == stored
    assert type(getattr(layer, argument)) is float


@pytest.mark.parametrize("argument", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize("bad", [None, "0.5", [0.5], 1j, np.array([0.1, 0.2])], ids=repr)
def test_rates_that_are_no_number(argument, bad):
    with pytest.raises(TypeError, match=f"argument `{argument}`, expected a number"):
        LSTM(U, **{argument: bad})


@pytest.mark.parametrize("bad", [1.0, "1", np.int64(3), [1]], ids=repr)
def test_seed_must_be_a_python_int(bad):
    with pytest.raises(ValueError, match="`seed` must be an integer or None"):
        LSTM(U, seed=bad)


def test_seeds():
    assert LSTM(U, seed=7).cell.seed_generator.state.tolist() == [7, 0]
    random_seeds = {int(LSTM(U).cell.seed_generator.state[0]) for _ in range(4)}
    assert len(random_seeds) > 1
    assert LSTM(U).seed is None


def test_use_cudnn():
    for accepted in ("auto", True, False, 1, 0):
        assert LSTM(U, use_cudnn=accepted).use_cudnn == accepted
    for bad in ("yes", None, 2, np.array([True, False])):
        with pytest.raises(ValueError, match="use_cudnn"):
            LSTM(U, use_cudnn=bad)


def test_implementation():
    cases = [
        ({}, 2),
        ({"implementation": 1}, 1),
        ({"implementation": 0}, 0),
        ({"implementation": 2, "recurrent_dropout": 0.5}, 1),
    ]
    for kwargs, expected in cases:
        assert LSTM(U, **kwargs).implementation == LSTMCell(U, **kwargs).implementation == expected
        assert "implementation" not in LSTM(U, **kwargs).get_config()


def test_flags_are_truthy_values():
    layer = LSTM(2, return_sequences=1, return_state="yes", go_backwards=[], zero_output_for_mask=1, use_bias=0)
    y, h, c = layer(np.ones((1, 3, D), np.float32))
    assert (y.shape, h.shape, c.shape, layer.bias) == ((1, 3, 2), (1, 2), (1, 2), None)


# -- the base layer's keywords ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", "time_major batch_input_shape batch_shape input_length weights batch_size cell flags arguments units_".split()
)
def test_unknown_keywords_are_refused(name):
    with pytest.raises(ValueError, match=f"Unrecognized keyword arguments passed to LSTM: .*{name}"):
        LSTM(U, **{name: 1})
    with pytest.raises(ValueError, match=f"Unrecognized keyword arguments passed to LSTMCell: .*{name}"):
        LSTMCell(U, **{name: 1})


@pytest.mark.parametrize("flag", ["return_sequences", "stateful", "unroll", "zero_output_for_mask", "use_cudnn"])
def test_the_cell_has_no_flags_of_a_sequence(flag):
    with pytest.raises(ValueError, match=flag):
        LSTMCell(U, **{flag: True})


def test_names():
    first, second = LSTM(U), LSTM(U)
    assert (first.name + "x").startswith("lstm")
    assert first.name != second.name
    assert LSTM(U, name="mine").name == "mine"
    assert LSTMCell(U, name="mine").name == "mine"
    for bad in ("a/b", 5):
        with pytest.raises(ValueError, match="`name` must be a string"):
            LSTM(U, name=bad)


@pytest.mark.parametrize(
    ("dtype", "compute", "variable"),
    [
        (None, "float32", "float32"),
        ("float64", "float64", "float64"),
        (np.float16, "float16", "float16"),
        ("mixed_float16", "float16", "float32"),
        ("mixed_bfloat16", "bfloat16", "float32"),
        ({"module": "keras", "class_name": "DTypePolicy", "config": {"name": "bfloat16"}}, "bfloat16", "bfloat16"),
    ],
    ids=repr,
)
def test_dtype_policies(dtype, compute, variable):
    layer = built(dtype=dtype)
    assert (layer.compute_dtype, layer.variable_dtype, layer.cell.compute_dtype) == (compute, variable, compute)
    assert {v.dtype.name for v in layer.weights} == {variable}


def test_dtypes_that_cannot_be():
    for bad in ("float", "float8_e4m3fn", 5, {"name": 3}):
        with pytest.raises((ValueError, TypeError), match=r"olicy|dtype|name"):
            LSTM(U, dtype=bad)
    for name in ("int32", "bool", "uint8"):
        with pytest.raises(ValueError, match=f"argument `dtype`='{name}'"):
            built(dtype=name)


def test_trainable_false_goes_to_the_cell():
    layer = built(trainable=False)
    assert (layer.trainable, layer.cell.trainable, layer.trainable_weights) == (False, False, [])
    assert layer.non_trainable_weights == layer.weights
    layer.trainable = True
    assert (layer.cell.trainable, layer.trainable_weights) == (True, layer.weights)


def test_input_shape_and_input_dim_are_remembered():
    assert LSTM(U, input_shape=(5, D)).input_shape_hint == (None, 5, D)
    assert LSTM(U, input_dim=D).input_shape_hint == (None, D)


# -- build ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(None, D), (D,), (1, 2, 3, 4), (None, 5, -3), (-1, 5, D), (2, 5, 2.5), (2, 5, None)])
def test_build_refuses_impossible_shapes(shape):
    with pytest.raises(ValueError, match=r"ndim=3|`input_shape` must hold|must be known"):
        LSTM(U).build(shape)


def test_build_of_a_stateful_layer_needs_the_batch_size():
    with pytest.raises(ValueError, match="batch size must be static"):
        LSTM(U, stateful=True).build((None, 5, D))


def test_build_keeps_the_weights_of_a_built_layer():
    layer = built()
    before = layer.get_weights()
    layer.build((None, None, D))
    for kept, value in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, value)
