"""Variables in expressions, as custom layers and callbacks for Keras write them."""

from __future__ import annotations

import copy
import operator

import numpy as np
import pytest

from fastlstm import LSTM
from fastlstm.variable import Variable

A = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)
B = np.array([[0.5, 2.0], [1.0, 3.0]], np.float32)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "matmul"])
def test_arithmetic_gives_arrays(name):
    function = getattr(operator, name)
    a, b = Variable(A, "a"), Variable(B, "b")
    for result in (function(a, b), function(a, B), function(A, b)):
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, function(A, B))
    if name != "matmul":
        np.testing.assert_array_equal(function(b, 2), function(B, 2))
        np.testing.assert_array_equal(function(2, b), function(2, B))
        np.testing.assert_array_equal(function(np.float32(2), b), function(np.float32(2), B))
    assert function(b, b).dtype == np.float32


def test_one_operand():
    a = Variable(A, "a")
    np.testing.assert_array_equal(-a, -A)
    np.testing.assert_array_equal(abs(a), abs(A))
    assert float(Variable(np.float32(0.5), "rate")) == 0.5
    with pytest.raises(TypeError):
        float(a)


def test_expressions_leave_the_variable_alone():
    a = Variable(A, "a")
    version, b = a.version, a
    a += 1
    assert type(a) is np.ndarray
    np.testing.assert_array_equal(b, A)
    assert b.version == version


def test_variables_are_told_apart_as_objects():
    layer = LSTM(2)
    layer.build((None, 3, 2))
    twin = copy.deepcopy(layer.kernel)
    assert layer.kernel == layer.kernel
    assert layer.kernel != twin
    assert len({layer.kernel, twin, *layer.weights}) == 4
