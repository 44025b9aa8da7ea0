"""``set_num_threads``: the same bits at any number of threads, and threads that are never in the way (pyx/pool.c, threads.pxi).

In most tests a thread needs next to nothing to do, so that small calls are shared too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastlstm
from fastlstm import LSTM, Bidirectional, ConvLSTM1D, _core, get_num_threads, set_num_threads
from fastlstm.backends import cpu
from fastlstm.backends import threads as threads_module

COUNTS = (2, 3, 7)
TASKS = Path("/proc/self/task")
needs_threads = pytest.mark.skipif(_core.max_threads() == 1, reason="this build has no threads")
needs_tasks = pytest.mark.skipif(not TASKS.exists(), reason="no /proc/self/task to count the threads of this process")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
# BLAS has threads of its own; calls that go to it are not shared.
pytestmark = pytest.mark.usefixtures("packed_panels_throughout")


@pytest.fixture(autouse=True)
def shared_calls():
    """Every call that has two parts is shared, until the end of the test, which begins with one thread."""
    number, work = get_num_threads(), _core.set_thread_work(1, 1)
    set_num_threads(1)
    yield
    _core.set_thread_work(*work)
    set_num_threads(number)


def at(count, work):
    """``work()`` with ``count`` threads."""
    set_num_threads(count)
    try:
        return work()
    finally:
        set_num_threads(1)


def flat(results):
    """The arrays of nested lists and tuples."""
    if isinstance(results, (list, tuple)):
        return [array for part in results for array in flat(part)]
    return [] if results is None else [results]


def assert_same_at_any_count(work):
    expected = flat(at(1, work))
    for count in COUNTS:
        got = flat(at(count, work))
        assert [a.shape for a in got] == [a.shape for a in expected]
        for k, (a, b) in enumerate(zip(got, expected, strict=True)):
            assert a.tobytes() == b.tobytes(), f"array {k} differs with {count} threads"


@st.composite
def flags(draw):
    """Options that both layers have."""
    chosen = {name: draw(st.booleans()) for name in ("go_backwards", "return_sequences", "zero_output_for_mask", "use_bias")}
    chosen["dtype"] = draw(st.sampled_from(["float32", "float64", "mixed_float16"]))
    chosen["activation"], chosen["recurrent_activation"] = draw(
        st.sampled_from([("tanh", "sigmoid"), ("relu", "hard_sigmoid"), ("softsign", "sigmoid"), ("softmax", "sigmoid")])
    )
    chosen["use_cudnn"] = draw(st.sampled_from(["auto", False]))
    return chosen


def arguments(layer, shape, seed, masked, with_states):
    """x, initial_state and mask of a call."""
    rng = np.random.default_rng(seed)
    dtype = layer.compute_dtype if layer.compute_dtype != "float16" else "float32"
    x = rng.standard_normal(shape).astype(dtype)
    layer.build(shape)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape) * 0.5)
    states = None
    if with_states:
        states = [rng.standard_normal(layer.cell.state_shape(shape[0])).astype(dtype) for _ in "hc"]
    mask = rng.random(shape[:2]) < masked if masked < 1 else None
    return x, states, mask


# -- the same bits ----------------------------------------------------------------------------------------------------------
BATCHES, UNITS = st.sampled_from([1, 2, 3, 5, 8, 17, 33, 70]), st.sampled_from([1, 3, 4, 16, 20, 33, 64, 100])
MASKED = st.sampled_from([0.0, 0.3, 0.8, 1.0, 1.0])


@settings(max_examples=80)
@given(BATCHES, st.integers(1, 12), st.integers(1, 20), UNITS, flags(), MASKED, st.booleans(), st.integers(0, 99))
def test_lstm(batch, steps, features, units, options, masked, with_states, seed):
    layer = LSTM(units, return_state=True, **options)
    call = arguments(layer, (batch, steps, features), seed, masked, with_states)
    assert_same_at_any_count(lambda: layer(*call))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("masked", [1.0, 0.7])
@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("units", [32, 64, 130, 300, 520])
def test_a_single_row_of_many_units(units, sequences, masked, dtype):
    """Panels of every size, in blocks that seven threads cannot have the same number of; odd and even numbers of steps."""
    layer = LSTM(units, return_state=True, return_sequences=sequences, dtype=dtype)
    for steps in (1, 2, 41):
        call = arguments(layer, (1, steps, 30), units + steps, masked, True)
        assert_same_at_any_count(lambda call=call: layer(*call))


@settings(max_examples=60)
@given(
    st.sampled_from([1, 1, 2, 3, 9]),
    st.integers(1, 6),
    st.integers(3, 20),
    st.integers(1, 5),
    st.sampled_from([1, 4, 16, 21]),
    st.sampled_from([1, 2, 3]),
    flags(),
    st.sampled_from(["same", "valid"]),
    st.sampled_from(["channels_last", "channels_first"]),
    st.sampled_from([{}, {"strides": 2}, {"dilation_rate": 2}]),
    MASKED,
    st.integers(0, 99),
)
def test_convlstm1d(batch, steps, rows, channels, filters, taps, options, padding, data_format, geometry, masked, seed):
    del options["use_cudnn"]
    rows += 2 * (taps - 1)
    layer = ConvLSTM1D(filters, taps, padding=padding, data_format=data_format, return_state=True, **options, **geometry)
    sizes = (channels, rows) if data_format == "channels_first" else (rows, channels)
    call = arguments(layer, (batch, steps, *sizes), seed, masked, False)
    assert_same_at_any_count(lambda: layer(*call))


@pytest.mark.parametrize("masked", [1.0, 0.6])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("batch", [1, 2, 3, 10])
@pytest.mark.parametrize("conv", [False, True])
def test_gradients(conv, batch, dropout, masked):
    shape = (batch, 9, 11, 3) if conv else (batch, 9, 6)
    options = {"return_sequences": True, "return_state": True, "dropout": dropout, "recurrent_dropout": dropout}
    made = ConvLSTM1D(21, 3, **options) if conv else LSTM(37, **options)  # several blocks of units, and a tail
    x, _, mask = arguments(made, shape, batch, masked, False)
    weights = made.get_weights()

    def gradients():
        layer = (ConvLSTM1D if conv else LSTM).from_config({**made.get_config(), "seed": 5})  # draws the same masks each time
        layer.build(shape)
        layer.set_weights(weights)
        outputs, pullback = layer.vjp(x, mask=mask, training=True)
        found = pullback(tuple(np.cos(y) for y in outputs))
        return outputs, found.inputs, found.weights

    assert_same_at_any_count(gradients)


def test_layers_around_layers():
    layer = Bidirectional(LSTM(20, return_sequences=True))
    x = np.random.default_rng(0).standard_normal((5, 7, 4)).astype(np.float32)
    layer(x)
    assert_same_at_any_count(lambda: layer(x))


def test_threads_flush_subnormals_as_the_caller_does():
    """Numbers below 1e-38 count as zero in every share of a batch, as they do on one thread."""
    layer = LSTM(20, activation="linear", use_bias=False, return_sequences=True)
    x = np.full((9, 3, 4), 1e-41, np.float32)
    layer(x)
    for count in (1, *COUNTS):
        assert not at(count, lambda: layer(x)).any()


# -- when there are threads, and how many -----------------------------------------------------------------------------------
def run_python(code, **environment):
    """What a new Python prints for ``code``; it must end well and say nothing else."""
    start = "import os, time\nimport numpy as np\nimport fastlstm\nfrom fastlstm import _core\n"
    start += "tasks = lambda: len(os.listdir('/proc/self/task'))\n"
    start += "x = np.ones((8, 20, 16), np.float32)\nlayer = fastlstm.LSTM(64)\n"
    variables = {k: v for k, v in os.environ.items() if k != "FASTLSTM_NUM_THREADS"} | {"FASTLSTM_GEMM": cpu.GEMM} | environment
    done = subprocess.run([sys.executable, "-c", start + code], env=variables, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@needs_tasks
def test_one_thread_starts_none():
    code = "before = tasks(); _core.set_thread_work(1, 1); layer(x); layer(x[:1]); print(tasks() - before)"
    assert run_python(code) == ["0"]


@needs_threads
@needs_tasks
def test_threads_start_when_a_call_needs_them_and_end_when_it_may_not_use_them():
    code = """
before = tasks()
for number in (3, 2, 5, 1):
    fastlstm.set_num_threads(number)
    print(tasks() - before)
    layer(x); layer(x[:2])  # too small
    _core.set_thread_work(1, 1); layer(x); _core.set_thread_work(4e6, 1e5)
    print(tasks() - before)
"""
    # What the last number left over stays; joined threads may take a moment to leave the list.
    code = code.replace("print(", "time.sleep(0.2); print(")
    assert run_python(code) == ["0", "2", "1", "1", "1", "4", "0", "0"]


@needs_threads
@needs_tasks
def test_threads_leave_small_calls_alone():
    assert run_python("b = tasks(); fastlstm.set_num_threads(4); layer(x[:, :2]); print(tasks() - b)") == ["0"]


@needs_threads
def test_no_time_is_spent_while_no_call_runs():
    layer = LSTM(64)
    x = np.ones((8, 20, 16), np.float32)
    set_num_threads(3)
    layer(x)
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.02


@pytest.mark.parametrize("value", ["1", "3", "all", ""])
def test_the_environment_variable(value):
    expected = {"1": 1, "3": 3, "": 1}.get(value) or threads_module.usable_cpus()
    printed = run_python("print(fastlstm.get_num_threads(), fastlstm.config()['threads'])", FASTLSTM_NUM_THREADS=value)
    assert printed == [str(min(expected, _core.max_threads()))] * 2


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_a_bad_environment_variable(value):
    code = "import fastlstm"
    variables = {**os.environ, "FASTLSTM_NUM_THREADS": value}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ImportError: FASTLSTM_NUM_THREADS=" in done.stderr


@pytest.mark.parametrize("count", [1, 2, np.int64(2), np.uint8(3), 10**9])
def test_counts(count):
    set_num_threads(count)
    assert get_num_threads() == min(int(count), _core.max_threads())
    assert fastlstm.config()["threads"] == get_num_threads()


@pytest.mark.parametrize("bad", [0, -1, np.int32(-5), "none", "2", ""])
def test_counts_below_1_and_other_words_are_value_errors(bad):
    with pytest.raises(ValueError, match="num_threads"):
        set_num_threads(bad)
    assert get_num_threads() == 1


@pytest.mark.parametrize("bad", [True, False, np.True_, 1.0, 2.5, None, [2], np.array([1, 2]), b"all"])
def test_other_types_are_type_errors(bad):
    with pytest.raises(TypeError, match="num_threads"):
        set_num_threads(bad)
    assert get_num_threads() == 1


@pytest.mark.parametrize("count", [0, -1, _core.max_threads() + 1])
def test_the_compiled_door_takes_only_what_it_can_use(count):
    with pytest.raises(ValueError, match="threads"):
        _core.set_num_threads(count)


def test_all_is_what_the_process_may_use():
    set_num_threads("all")
    assert get_num_threads() == min(threads_module.usable_cpus(), _core.max_threads())
    if hasattr(os, "sched_getaffinity"):
        assert 1 <= threads_module.usable_cpus() <= len(os.sched_getaffinity(0))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, 2**31),
        ("0::/host/path\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {}, 2**31),
        ("4:cpu,cpuacct:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 4),
        ("4:cpu,cpuacct:/a\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2**31),
        ("4:memory:/a\n3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "70000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 0.7),
    ],
)
def test_quotas_of_cgroups(tmp_path, own, files, quota):
    write(tmp_path / "cgroup", own)
    for name, text in files.items():
        write(tmp_path / "mount" / name, text)
    assert threads_module.cgroup_quota(tmp_path / "cgroup", tmp_path / "mount") == quota


def test_without_cgroups_there_is_no_quota(tmp_path):
    assert threads_module.cgroup_quota(tmp_path / "none", tmp_path) == 2**31


# -- company ----------------------------------------------------------------------------------------------------------------
def test_callers_at_once():
    """One of them has the threads, the others run alone; all get the same bits. The number changes meanwhile."""
    layer = LSTM(40, return_sequences=True, return_state=True)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((1 + k % 5, 30, 12)).astype(np.float32) for k in range(8)]
    expected = [[y.tobytes() for y in at(1, lambda x=x: layer(x))] for x in inputs]
    start, wrong, ended = threading.Barrier(8), [], []

    def call(k):
        start.wait()
        for turn in range(40):
            if k == 0:
                set_num_threads(1 + turn % 4)
            if [y.tobytes() for y in layer(inputs[k])] != expected[k]:
                wrong.append(k)
        ended.append(k)

    set_num_threads(3)
    callers = [threading.Thread(target=call, args=(k,)) for k in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (wrong, sorted(ended)) == ([], list(range(8)))


def in_a_child(work):
    """The bytes that ``work()`` returns in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(work())
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return answer


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_after_a_fork_starts_threads_of_its_own():
    layer = LSTM(40, return_sequences=True)
    batch = np.random.default_rng(0).standard_normal((6, 30, 12)).astype(np.float32)
    expected = layer(batch).tobytes() + layer(batch[:1]).tobytes()

    def work():
        if TASKS.exists():
            assert len(os.listdir(TASKS)) == 1
        answer = layer(batch).tobytes() + layer(batch[:1]).tobytes()
        if TASKS.exists():
            assert len(os.listdir(TASKS)) == get_num_threads()
        return answer

    set_num_threads(min(3, _core.max_threads()))
    assert layer(batch).tobytes() + layer(batch[:1]).tobytes() == expected
    for _ in range(5):
        assert in_a_child(work) == expected
        assert layer(batch).tobytes() + layer(batch[:1]).tobytes() == expected


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_a_call_is_under_way():
    layer = LSTM(40, return_sequences=True)
    batch = np.random.default_rng(0).standard_normal((6, 30, 12)).astype(np.float32)
    expected = layer(batch).tobytes()
    stop, wrong = threading.Event(), []

    def call():
        while not stop.is_set():
            if layer(batch).tobytes() != expected:
                wrong.append(True)

    set_num_threads(3)
    caller = threading.Thread(target=call)
    caller.start()
    try:
        for _ in range(20):
            assert in_a_child(lambda: layer(batch).tobytes()) == expected
    finally:
        stop.set()
        caller.join()
    assert not wrong


def test_python_ends_well_with_threads_at_rest_and_at_work():
    code = """
import threading
fastlstm.set_num_threads(3)
_core.set_thread_work(1, 1)
layer(x)
def call():
    while True:
        layer(x)
threading.Thread(target=call, daemon=True).start()
time.sleep(0.2)
print("end")
"""
    assert run_python(code) == ["end"]
