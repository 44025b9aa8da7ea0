"""The persistent kernel: all cuts of rows and units, slabs, grids of devices; and what the shim notices of mutations."""

from __future__ import annotations

import itertools
import math

import fake_cupy
import pytest
from gpu_runs import check, conv_spec, differences, lstm_spec, problem

from benchmarks.bench_gpu import ALL
from fastlstm.backends.gpu import choose, kernels, persistent
from fastlstm.backends.gpu.layout import Layout

H100 = persistent.Limits(132, 227 * 1024, True)


@pytest.fixture(autouse=True)
def _forget_sizes():
    persistent.tiles.cache_clear()
    yield
    persistent.tiles.cache_clear()


@pytest.fixture
def only(monkeypatch):
    """only(name=…, …): of the sizes that fit, those with these fields."""
    whole = persistent._candidates

    def choose_only(**fields):
        def some(*arguments):
            for sizes in whole(*arguments):
                if all(getattr(sizes, name) == value for name, value in fields.items()):
                    yield sizes

        persistent.tiles.cache_clear()
        monkeypatch.setattr(persistent, "_candidates", some)

    return choose_only


def sizes_of(spec, given):
    """The sizes that the last call of a spec took."""
    shape = given.x.shape if given.x.ndim == 4 else (*given.x.shape[:2], 1, given.x.shape[2])
    return persistent.tiles(Layout.of(spec, shape), 8, choose.limits())


@pytest.mark.parametrize("thread_rows", [1, 2, 4, 8])
@pytest.mark.parametrize("unit_bits", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["sequence_row", "sequence_rows"])
def test_lstm_in_every_cut(order, limits, only, name, unit_bits, thread_rows):
    """Blocks with and without neighbours, several tiles for each block, remainders of units and of rows."""
    limits["MultiProcessorCount"] = 6
    only(name=name, unit_bits=unit_bits, thread_rows=thread_rows)
    for count, units, masked in ((1, 5, True), (7, 1 << unit_bits, False), (45, (2 << unit_bits) - 1, True)):
        spec, rows = lstm_spec(units, return_sequences=True), persistent.rows_of(name)
        given = problem(spec, count, 3, 3, masked=masked)
        sizes = sizes_of(spec, given)
        if thread_rows > 1 and thread_rows * rows >= 2 * count:
            assert sizes is None or sizes.thread_rows != thread_rows
            continue
        if sizes is None:
            assert math.ceil(units / (1 << unit_bits)) > 6
            continue
        assert (sizes.name, sizes.thread_rows) == (name, thread_rows)
        check(spec, "float64", given)
        assert name in fake_cupy.launches


@pytest.mark.parametrize("thread_rows", [1, 2, 4])
@pytest.mark.parametrize("unit_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5])
def test_convlstm1d_in_every_cut(order, limits, only, taps, unit_bits, thread_rows):
    """Tiles that wait for their neighbours, several of them for each block; inputs in the kernel and, by strides, outside it."""
    limits["MultiProcessorCount"] = 9
    only(unit_bits=unit_bits, thread_rows=thread_rows)
    for number, (padding, strides) in enumerate((("same", 1), ("valid", 1), ("same", 2))):
        spec = conv_spec(9, taps, padding=padding, strides=strides, return_sequences=True)
        given = problem(spec, 2, 3, 4, rows=(21 + taps) * strides, masked=number == 0)
        sizes = sizes_of(spec, given)
        assert sizes is None or (sizes.channels > 0) == (strides == 1)
        if sizes is None:
            assert math.ceil(9 / (1 << unit_bits)) > 9 or 4 * thread_rows < taps - 1
            continue
        check(spec, "float64", given)
    assert fake_cupy.launches or sizes is None


def test_inputs_whose_weights_do_not_fit_are_multiplied_before(cupy, limits):
    spec = conv_spec(16, 3, padding="same", return_sequences=True)
    given = problem(spec, 2, 3, 60, rows=12)
    limits |= {"MultiProcessorCount": 8, "MaxSharedMemoryPerBlockOptin": 16 * 1024}
    assert sizes_of(spec, given).channels == 0
    check(spec, "float64", given)
    limits["MaxSharedMemoryPerBlockOptin"] = 200 * 1024
    assert sizes_of(spec, given).channels == 60
    check(spec, "float64", given)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_channels_in_several_slabs(order, limits, only, dtype):
    """More channels than a block carries at once, the last slab shorter; of h and of x."""
    limits |= {"MultiProcessorCount": 16, "MaxSharedMemoryPerBlockOptin": 227 * 1024}
    only(name="sequence_rows", unit_bits=4, thread_rows=16)
    spec = lstm_spec(150, return_sequences=True)
    given = problem(spec, 66, 2, 3)
    assert sizes_of(spec, given).slab < 75
    check(spec, dtype, given)
    only(unit_bits=2, thread_rows=8)
    conv = conv_spec(100, 3, padding="same", return_sequences=True)
    given = problem(conv, 1, 2, 150, rows=33)
    limits["MultiProcessorCount"] = 64
    assert sizes_of(conv, given).slab < 100
    check(conv, dtype, given)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("device", [H100, persistent.Limits(108, 163 * 1024, True), persistent.Limits(40, 64 * 1024, True)])
def test_grids_of_devices(device, itemsize):
    """For all workloads: every unit and row is covered, all blocks are resident, everything fits."""
    for case in ALL.values():
        layout = Layout.of(case.make_layer().spec, (case.batch, case.steps, case.rows, case.features))
        found = list(persistent._candidates(layout, itemsize, device, 0))
        assert (persistent.tiles(layout, itemsize, device) is None) == (not found)
        if device is H100 and itemsize == 4:
            assert found
        for sizes in found:
            assert sizes.grid[0] << sizes.unit_bits >= layout.units
            assert sizes.groups * sizes.group_rows >= layout.rows
            assert sizes.group_tiles * sizes.tile_rows >= sizes.group_rows
            assert sizes.grid[0] * sizes.grid[1] <= device.processors
            assert sizes.threads in (32, 64, 128, 256)
            assert sizes.shared <= device.shared
            assert sizes.slab_pitch % 4 == 0
            assert sizes.pitch % 4 == 0
            assert sizes.slab * sizes.slab_pitch * itemsize <= persistent.PIECES * persistent.PIECE * sizes.threads
    large = Layout.of(lstm_spec(2000), (1, 3, 1, 4))
    assert persistent.tiles(large, 4, device) is None
    assert persistent.tiles(large._replace(units=8), 4, device._replace(cooperative=False)) is None


def test_a_small_grid_of_a_large_device_spreads_over_it():
    """64 samples of 512 units: four groups of samples beside each other, not one that reads all of h in every block."""
    sizes = persistent.tiles(Layout.of(lstm_spec(512), (64, 100, 1, 512)), 4, H100)
    assert sizes is not None
    assert sizes.grid[0] * sizes.grid[1] == 128
    assert sizes.grid[1] > 1


# -- what the shim notices ------------------------------------------------------------------------------------------------
BARRIERS = 8  # in step.cu and sequence.cu


def barriers():
    """The place of every __syncthreads() in the source."""
    source, found = kernels.source(64), [-1]
    while (start := source.find("__syncthreads();", found[-1] + 1)) >= 0:
        found.append(start)
    assert len(found) == BARRIERS + 1
    return found[1:]


def without(place):
    """An edit that deletes the barrier at a place of the float64 source."""

    def edit(source):
        return (
            source[:place] + source[place:].replace("__syncthreads();", "", 1) if "#define FL_BITS 64" in source[:20] else source
        )

    return edit


SMALL = {"MultiProcessorCount": 9}
SEQUENCES = {"return_sequences": True}
# Properties of the device, fields of the sizes, a spec, a problem's: several blocks; few samples; several slabs; neighbours; one
# launch a step.
PROBLEMS = [
    (SMALL, {}, lstm_spec(33, **SEQUENCES), {"count": 40, "steps": 3, "channels": 3}),
    (SMALL, {}, lstm_spec(33, **SEQUENCES), {"count": 1, "steps": 4, "channels": 3}),
    (SMALL, {"thread_rows": 16}, lstm_spec(40, **SEQUENCES), {"count": 66, "steps": 2, "channels": 2}),
    (SMALL, {}, conv_spec(9, 3, padding="same", **SEQUENCES), {"count": 2, "steps": 3, "channels": 40, "rows": 9}),
    (
        {"CooperativeLaunch": 0},
        {},
        conv_spec(9, 3, padding="same", **SEQUENCES),
        {"count": 1, "steps": 2, "channels": 40, "rows": 9},
    ),
]


def is_noticed(only):
    """Whether any of a few problems, in either order of threads, comes out wrong or not at all."""
    for (properties, fields, spec, sizes), backwards in itertools.product(PROBLEMS, (False, True)):
        only(**fields)
        with fake_cupy.reversed_threads(backwards), fake_cupy.with_limits(properties):
            try:
                if any(not error <= 1 for error in differences(spec, "float64", problem(spec, **sizes)).values()):
                    return True
            except RuntimeError:  # the shim's own answer: a barrier, a shuffle, a wait, a write outside
                return True
    return False


def test_the_mutations_begin_with_sound_kernels(cupy, only):
    """And are tried on every kind of kernel."""
    fake_cupy.launches.clear()
    assert not is_noticed(only)
    assert {"sequence_row", "sequence_rows", "sequence_taps3", "step_forward"} <= set(fake_cupy.launches)


@pytest.mark.parametrize("number", range(BARRIERS))
def test_every_deleted_barrier_is_noticed(cupy, only, number):
    with fake_cupy.edited(without(barriers()[number])):
        assert is_noticed(only)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("< times * gridDim.x) FL_WAITING();", "< 0) FL_WAITING();"),
        ("< times * gridDim.x) FL_WAITING();", "< (times + 1) * gridDim.x) FL_WAITING();"),
        ("(io.taps > 1 && other >= 0 && other < io.group_tiles)", "false"),
        ("row < io.group_rows && m < cell.rows", "row <= io.group_rows && m < cell.rows"),
        ("row < io.group_rows && m < cell.rows", "row < io.group_rows && m <= cell.rows"),
        (
            "values[0] += __shfl_xor_sync(FL_FULL_WARP, values[0], HALF)",
            "if (threadIdx.x) values[0] += __shfl_xor_sync(FL_FULL_WARP, values[0], HALF)",
        ),
        ("*turn ^= 1;", ""),
    ],
    ids=["no wait", "a wait that never ends", "no wait for neighbours", "a row of the next group", "a row too many",
         "a divergent shuffle", "one slab's room alone"],
)  # fmt: skip
def test_other_mutations_are_noticed(cupy, only, written, instead):
    assert written in kernels.source(64)
    with fake_cupy.edited(lambda source: source.replace(written, instead)):
        assert is_noticed(only)
