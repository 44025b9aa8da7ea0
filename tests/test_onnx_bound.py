"""ONNX calls that run bound to their arrays: what decides which of them answers, and that they answer what the plan does."""

from __future__ import annotations

import copy
import threading
import warnings

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX models are parsed by the package onnx")

import onnx_graphs as og

import fastlstm
from fastlstm import selector
from fastlstm.models.onnx import bind, bound, ready

RNG = np.random.default_rng(8)
NODE = og.helper.make_node
BOOL = og.onnx.TensorProto.BOOL


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """The second call of each key is bound."""
    monkeypatch.setattr(ready, "BOUND_AT", 2)


def keys(model):
    """The keys that are bound."""
    return [key for key, kept in model._plan.ready._kept.items() if kept.spare]


@pytest.fixture
def counted(monkeypatch):
    """Counts the calls that run bound."""
    calls = []
    whole = bound.Bound.run
    monkeypatch.setattr(bound.Bound, "run", lambda self, given: calls.append(1) or whole(self, given))
    return calls


def branch(outputs, nodes):
    return og.helper.make_graph(nodes, "branch", [], [og.value(name, kind) for name, kind in outputs])


def choosing(condition, kind, rank=0):
    """y = 2 x, or where ``condition`` (nodes that make "if" of "k" and "x") is false x + 10; x [?,?], k of type ``kind``."""
    nodes = [
        *condition,
        NODE(
            "If",
            ["if"],
            ["y"],
            "choice",
            then_branch=branch([("a", og.FLOAT)], [NODE("Add", ["x", "x"], ["a"])]),
            else_branch=branch([("b", og.FLOAT)], [NODE("Add", ["x", "ten"], ["b"])]),
        ),
    ]
    held = {"ten": np.float32(10), "rate": np.array(16000, np.int64), "three": np.array(3, np.int64), "zero": np.float32(0)}
    return og.load(og.model(nodes, [og.free("x", 2), og.free("k", rank, kind)], ["y"], held, opset=16))


# -- keys -------------------------------------------------------------------------------------------------------------------
def test_shapes_in_turn(counted):
    """One model, shapes that change from call to call: each has its own arrays."""
    nodes = [NODE("Softmax", ["x"], ["s"], axis=-1), NODE("Concat", ["s", "x"], ["c"], axis=1), NODE("Tanh", ["c"], ["y"])]
    model = og.load(og.model(nodes, [og.free("x", 2)], ["y"]))
    for _ in range(5):
        for shape in ((1, 3), (3, 1), (2, 5), (0, 4)):
            x = RNG.normal(size=shape).astype("f4")
            og.same(model(x), og.through_plan(model, x))
    assert len(keys(model)) == 4
    assert len(counted) == 4 * 3


@pytest.mark.parametrize("dtype", ["f2", "f8", "i4", "u1", "?"])
def test_other_dtypes_are_converted_as_ever(dtype, counted):
    """A float64 array of a bound shape is not taken for a float32 one."""
    model = og.load(og.one("Exp", {"x": np.zeros((2, 3), "f4")}))
    x = RNG.normal(size=(2, 3)).astype("f4")
    for _ in range(3):
        og.same(model(x), [np.exp(x)])
    other = (x * 2).astype(dtype)
    with np.errstate(over="ignore"):
        wanted = np.exp(other.astype("f4"))
    og.same(model(other), [wanted])
    og.same(model(x[:, ::-1]), [np.exp(x[:, ::-1])])
    og.same(model([x.tolist()]), [np.exp(x)])
    og.same(model(x.astype(">f4")), [np.exp(x)])
    assert len(counted) == 5
    assert len(keys(model)) == 1


def test_dtypes_that_the_graph_tells_apart():
    """Two inputs of the same shapes, integers and floats: neither is taken for the other."""
    model = og.load(og.model([NODE("CastLike", ["k", "x"], ["c"]), NODE("Add", ["x", "c"], ["y"])],
                             [og.free("x", 1), og.free("k", 1, og.INT64)], ["y"], opset=15))  # fmt: skip
    x, k = np.float32([0.5, 1]), np.array([3, 4])
    for _ in range(4):
        og.same(model([x, k]), [x + k.astype("f4")])
    assert len(keys(model)) == 1
    with pytest.raises(TypeError, match="input 'k' is of dtype int64"):
        model([x, x])
    og.same(model([k, k]), [(k + k).astype("f4")])


@pytest.mark.parametrize("values", [(16000, 8000), (8000, 16000)])
def test_the_number_that_decides_a_branch(values, counted):
    """The sampling rate of a graph like silero's: the value belongs to the key, and no node is left of the If."""
    model = choosing([NODE("Equal", ["k", "rate"], ["if"])], og.INT64)
    assert model._plan.ready._compared == [1]
    for _ in range(4):
        for rate in (*values, 44100):
            x = RNG.normal(size=(2, 2)).astype("f4")
            og.same(model([x, np.array(rate)]), [x + x if rate == 16000 else x + np.float32(10)])
    assert len(keys(model)) == 3
    assert og.runs(model) == [1, 1, 1]
    assert len(counted) == 3 * 2


def test_a_condition_of_the_shape(counted):
    """x.shape[0] == 3 decides, and nothing of it is left in a bound call."""
    condition = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Gather", ["s", "first"], ["n"], axis=0),
        NODE("Equal", ["n", "three"], ["if"]),
    ]
    condition.insert(0, NODE("Constant", [], ["first"], value_int=0))
    model = choosing(condition, og.INT64)
    assert model._plan.ready._compared == []
    for _ in range(4):
        for rows in (3, 2, 1):
            x = RNG.normal(size=(rows, 2)).astype("f4")
            og.same(model([x, np.array(rows)]), [x + x if rows == 3 else x + np.float32(10)])
    assert og.runs(model) == [1, 1, 1]
    assert len(counted) == 3 * 2


def test_a_condition_of_the_data(counted):
    """max(x) > 0 decides, which no key tells: the If stays a node."""
    condition = [NODE("ReduceMax", ["x"], ["m"], keepdims=0), NODE("Greater", ["m", "zero"], ["if"])]
    model = choosing(condition, og.INT64)
    assert model._plan.ready._compared == []
    for k in range(8):
        x = np.abs(RNG.normal(size=(2, 2))).astype("f4") * (-1) ** k
        og.same(model([x, np.array(0)]), [x + x if k % 2 == 0 else x + np.float32(10)])
    assert len(counted) == 6


def test_conditions_in_branches_and_behind_them():
    """An If in a branch, decided by another input; and one that is decided by what an If returned."""
    inner = branch([("p", og.FLOAT)], [NODE("Neg", ["x"], ["p"])]), branch([("q", og.FLOAT)], [NODE("Abs", ["x"], ["q"])])
    then = [NODE("If", ["l"], ["a"], "inner", then_branch=inner[0], else_branch=inner[1]), NODE("Not", ["l"], ["m"])]
    outer = branch([("a", og.FLOAT), ("m", BOOL)], then)
    other = branch([("b", og.FLOAT), ("k2", BOOL)], [NODE("Exp", ["x"], ["b"]), NODE("Identity", ["k"], ["k2"])])
    last = branch([("u", og.FLOAT)], [NODE("Sqrt", ["z"], ["u"])]), branch([("v", og.FLOAT)], [NODE("Floor", ["z"], ["v"])])
    nodes = [
        NODE("If", ["k"], ["z", "w"], "outer", then_branch=outer, else_branch=other),
        NODE("If", ["w"], ["y"], "last", then_branch=last[0], else_branch=last[1]),
    ]
    model = og.load(og.model(nodes, [og.free("x", 1), og.free("k", 0, BOOL), og.free("l", 0, BOOL)], ["y"], opset=16))
    assert model._plan.ready._compared == [1, 2]
    for _ in range(4):
        for k in (False, True):
            for wanted in (False, True):
                x = RNG.normal(size=4).astype("f4")
                z = (np.negative(x) if wanted else np.abs(x)) if k else np.exp(x)
                with np.errstate(invalid="ignore"):
                    y = np.sqrt(z) if k and not wanted else np.floor(z)
                og.same(model([x, np.array(k), np.array(wanted)]), [y])
    assert len(keys(model)) == 4


def test_a_condition_of_many_numbers_goes_through_the_plan(counted):
    """An input that decides is compared up to some numbers; larger ones are never bound."""
    condition = [NODE("ReduceMax", ["k"], ["m"], keepdims=0), NODE("Greater", ["m", "three"], ["if"])]
    model, x = choosing(condition, og.INT64, rank=1), np.ones((1, 1), "f4")
    for size in (1, ready.MOST_COMPARED, ready.MOST_COMPARED + 1):
        for top in (5, 1, 5, 1, 5, 1):
            og.same(model([x, np.full(size, top)]), [x * 2 if top > 3 else x + 10])
    assert len(counted) == 2 * 2  # two sizes, two values, the third call of each


def test_numbers_that_say_where_a_view_begins(counted):
    """A slice of an input's choice moves from call to call, though its shape stays."""
    nodes = [NODE("Slice", ["x", "k", "l"], ["s"]), NODE("Neg", ["s"], ["y"])]
    model = og.load(og.model(nodes, [og.free("x", 1), og.free("k", 1, og.INT64), og.free("l", 1, og.INT64)], ["y"]))
    x = np.arange(9, dtype="f4")
    for start in (0, 3, 5, 1, 7):
        og.same(model([x, np.array([start]), np.array([start + 2])]), [-x[start : start + 2]])
    assert len(counted) == 3
    og.same(model([x, np.array([4]), np.array([9])]), [-x[4:]])


# -- results that depend on more than shapes ------------------------------------------------------------------------------------
def test_a_shape_that_depends_on_the_data(counted):
    """As long as it stays what it was a bound call answers, then the plan, and nothing is bound again."""
    nodes = [NODE("NonZero", ["x"], ["i"]), NODE("Shape", ["i"], ["s"]), NODE("Add", ["i", "s"], ["y"])]
    model = og.load(og.model(nodes, [og.free("x", 1)], [og.value("y", og.INT64)]))
    for pattern in ([1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 1, 0]):
        x = np.array(pattern, "f4")
        found = np.array(np.nonzero(x))
        try:
            wanted = found + np.array(found.shape)
        except ValueError:
            with pytest.raises(ValueError, match="Add"):
                model(x)
            continue
        og.same(model(x), [wanted])
    assert len(counted) == 2  # the third call and the one that departed
    assert keys(model) == []


def test_an_error_names_its_node():
    nodes = [NODE("Neg", ["x"], ["n"], "first"), NODE("Gather", ["n", "i"], ["g"], "pick"), NODE("Neg", ["g"], ["y"], "last")]
    model, x = og.load(og.model(nodes, [og.free("x", 1), og.free("i", 1, og.INT64)], ["y"])), np.float32([1, 2])
    for _ in range(3):
        og.same(model([x, np.array([1, 0])]), [x[::-1]])
    for _ in range(3):
        with pytest.raises(ValueError, match=r"node 'pick' \(Gather\): index 2 is out of bounds"):
            model([x, np.array([1, 2])])
    og.same(model([x, np.array([0, 1])]), [x])
    assert len(keys(model)) == 1


def test_warnings_of_numpy_are_silent():
    model = og.load(og.model([NODE("Log", ["x"], ["l"]), NODE("Div", ["l", "x"], ["y"])], [og.free("x", 1)], ["y"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            np.testing.assert_array_equal(model(np.float32([0, -1, 1])), np.float32([-np.inf, np.nan, 0]))


def test_memory_that_a_node_asks_for_is_counted(counted):
    """Range makes as many numbers as its inputs say; bound or not there is a limit."""
    nodes = [NODE("Range", ["a", "b", "c"], ["r"], "range"), NODE("ReduceSum", ["r"], ["y"], keepdims=0)]
    model = og.load(og.model(nodes, [og.free(name, 0, og.INT64) for name in "abc"], [og.value("y", og.INT64)], opset=13))
    for _ in range(3):
        assert model([np.array(0), np.array(5), np.array(1)]) == 10
    assert len(counted) == 1
    with pytest.raises(ValueError, match=r"node 'range' \(Range\): would need \d+ bytes"):
        model([np.array(0), np.array(2**40), np.array(1)])


# -- what is kept ---------------------------------------------------------------------------------------------------------------
def test_large_calls_are_not_bound(counted):
    model = og.load(og.model([NODE("Neg", ["x"], ["y"])], [og.free("x", 1)], ["y"]))
    most = bind.MOST_BYTES // 4 // 2
    for size in (most, most + 1):
        for _ in range(4):
            x = RNG.normal(size=size).astype("f4")
            og.same(model(x), [-x])
    assert [key[0] for key in keys(model)] == [(most,)]
    assert len(counted) == 2


def test_only_so_many_keys_are_kept():
    model = og.load(og.model([NODE("Neg", ["x"], ["y"])], [og.free("x", 1)], ["y"]))
    for _ in range(2):
        for size in range(1, 3 * ready.MOST_COUNTED):
            og.same(model(np.ones(size, "f4")), [-np.ones(size, "f4")])
    for size in range(1, 2 * ready.MOST_KEYS):
        for _ in range(3):
            og.same(model(np.ones(size, "f4")), [-np.ones(size, "f4")])
    assert len(model._plan.ready._kept) == ready.MOST_KEYS
    assert len(model._plan.ready._counts) <= ready.MOST_COUNTED


def test_results_and_inputs_are_the_callers():
    """A call changes nothing that an earlier one returned or was given."""
    nodes = [NODE("Identity", ["x"], ["same"]), NODE("Transpose", ["x"], ["turned"]), NODE("Relu", ["x"], ["y"])]
    model = og.load(og.model(nodes, [og.free("x", 2)], ["same", "turned", "y", "half"][:3]))
    kept = []
    for _ in range(5):
        x = RNG.normal(size=(2, 3)).astype("f4")
        kept.append((x, x.copy(), model(x)))
    for x, before, results in kept:
        np.testing.assert_array_equal(x, before)
        og.same(results, [x, x.T, np.maximum(x, 0)])
        for array in results:
            assert not np.may_share_memory(array, x)
            array[...] = 7  # of the caller's own
    x = RNG.normal(size=(2, 3)).astype("f4")
    og.same(model(x), [x, x.T, np.maximum(x, 0)])


def test_dicts_and_copies_of_a_model(counted):
    model = og.load(og.model([NODE("Sub", ["a", "b"], ["y"])], [og.free("a", 1), og.free("b", 1)], ["y"]))
    a, b = np.float32([1, 2]), np.float32([5, 7])
    for _ in range(3):
        og.same(model({"b": b, "a": a}), [a - b])
    assert len(counted) == 1
    og.same(copy.deepcopy(model)({"a": b, "b": a}), [b - a])
    assert len(counted) == 1  # the copy has bound nothing yet
    with pytest.raises(ValueError, match="Missing: 'b'; not known: 'c'"):
        model({"a": a, "c": b})


def test_a_backend_that_is_asked_for_is_taken(counted):
    model = lstm()
    given = [RNG.normal(size=(1, 1, n)).astype("f4") for n in (3, 5, 5)]
    for _ in range(3):
        model(given)
    assert len(counted) == 1
    with selector.use_backend("reference"):
        model(given)
    with fastlstm.device("cpu"):
        model(given)
    assert len(counted) == 2


# -- threads --------------------------------------------------------------------------------------------------------------------
def lstm():
    weights = {"W": RNG.normal(size=(1, 20, 3)), "R": RNG.normal(size=(1, 20, 5)), "B": RNG.normal(size=(1, 40))}
    node = NODE("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y", "yh", "yc"], "rnn", hidden_size=5)
    nodes = [node, NODE("Relu", ["y"], ["r"]), NODE("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3])]
    held = {name: array.astype("f4") for name, array in weights.items()}
    return og.load(og.model(nodes, [og.free(name, 3) for name in "xhc"], ["t", "yh", "yc"], held))


def test_threads():
    """More threads than Bounds of a key, two shapes each: every one gets the answer to its own question."""
    model, wrong = lstm(), []
    count = ready.MOST_THREADS + 2
    barrier = threading.Barrier(count)
    questions = [
        [
            RNG.normal(size=(steps, batch, n)).astype("f4") if n == 3 else RNG.normal(size=(1, batch, n)).astype("f4")
            for n in (3, 5, 5)
        ]
        for steps, batch in [(1, 1), (4, 1)] * count
    ]
    answers = [og.through_plan(model, question) for question in questions]

    def ask(first):
        barrier.wait()
        for turn in range(300):
            place = 2 * first + turn % 2
            try:
                og.same(model(questions[place]), answers[place])
            except BaseException as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    kept = model._plan.ready._kept.values()
    assert len(kept) == 2
    assert all(1 <= len(one.spare) == one.made <= ready.MOST_THREADS for one in kept)


def test_a_bound_call_that_is_interrupted_by_another():
    """While one thread is inside a bound call, others take the plan or another Bound."""
    model, x = og.load(og.model([NODE("Neg", ["x"], ["y"])], [og.free("x", 1)], ["y"])), np.float32([1, 2])
    for _ in range(2):
        model(x)
    (kept,) = model._plan.ready._kept.values()
    taken = kept.spare.pop()
    og.same(model(2 * x), [-2 * x])  # makes another
    assert kept.made == 2
    assert len(kept.spare) == 1
    kept.spare.append(taken)
    og.same(model(3 * x), [-3 * x])
