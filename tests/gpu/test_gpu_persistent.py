"""The persistent kernel: all cuts of rows and units, slabs, grids of devices; and what the shim notices of mutations."""

from __future__ import annotations

import itertools
import math

import fake_cupy
import pytest
from gpu_runs import check, conv_spec, differences, lstm_spec, problem

from benchmarks.bench_gpu import ALL
from fastlstm.backends.gpu import choose, kernels, tiles
from fastlstm.backends.gpu.layout import Layout

H100 = tiles.Limits(132, 227 * 1024, True)


CACHED = (tiles.together, tiles.each, tiles.back)


def forget():
    for cached in CACHED:
        cached.cache_clear()


@pytest.fixture(autouse=True)
def _forget_sizes():
    forget()
    yield
    forget()


@pytest.fixture
def only(monkeypatch):
    """only("streamed", …, …): of the sizes that fit, those of kernels whose names begin and end so, and with these fields."""
    whole, each = tiles._candidates, tiles.each

    def choose_only(start="", kind="", **fields):
        def some(*arguments):
            for sizes in whole(*arguments):
                named = not start or sizes.streamed == (start == "streamed")
                if named and sizes.name.endswith(kind) and all(getattr(sizes, k) == v for k, v in fields.items()):
                    yield sizes

        forget()
        monkeypatch.setattr(tiles, "_candidates", some)
        monkeypatch.setattr(choose, "LAUNCHES", math.inf)
        monkeypatch.setattr(tiles, "each", (lambda *sizes: None) if start else each)

    return choose_only


def sizes_of(spec, given, way=tiles.together):
    """The sizes that a call of a spec takes."""
    shape = given.x.shape if given.x.ndim == 4 else (*given.x.shape[:2], 1, given.x.shape[2])
    return way(Layout.of(spec, shape), 8, choose.limits())


starts = pytest.mark.parametrize("start", ["resident", "streamed"])
NAMES = {"resident": ("sequence", "back"), "streamed": ("streamed", "streamed_back")}


@pytest.mark.parametrize("thread_rows", [1, 2, 8])
@pytest.mark.parametrize("quad_bits", [0, 1, 3, 4, 6])
@pytest.mark.parametrize("kind", ["_row", "_rows"])
@starts
def test_lstm_in_every_cut(order, limits, only, start, kind, quad_bits, thread_rows):
    """Blocks with and without neighbours, several tiles for each block, remainders of units and of rows; forwards and back."""
    limits |= {"MultiProcessorCount": 6, "MaxSharedMemoryPerBlockOptin": 600 * 1024}
    only(start, kind, quad_bits=quad_bits, thread_rows=thread_rows)
    for count, units, masked in ((1, 5, True), (7, 1 << quad_bits, False), (45, min((2 << quad_bits) - 1, 70), True)):
        spec, rows = lstm_spec(units, return_sequences=True), tiles.rows_of(kind)
        given = problem(spec, count, 3, 3, masked=masked)
        sizes, sizes_back = sizes_of(spec, given), sizes_of(spec, given, tiles.back)
        if thread_rows > 1 and thread_rows * rows >= 2 * count:
            assert (sizes, sizes_back) == (None, None)
            continue
        assert (sizes is None) == (math.ceil(units / (1 << quad_bits)) > 6 or thread_rows << quad_bits > 256)
        assert (sizes_back is None) == (math.ceil(math.ceil(units / 4) / (1 << quad_bits)) > 6 or thread_rows << quad_bits > 64)
        fake_cupy.launches.clear()
        check(spec, "float64", given)
        for name, found in zip(NAMES[start], (sizes, sizes_back), strict=True):
            assert (f"{name}{kind}" in fake_cupy.launches) == (found is not None)


@pytest.mark.parametrize("thread_rows", [1, 2, 4])
@pytest.mark.parametrize("quad_bits", [0, 2, 3])
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
@starts
def test_convlstm1d_in_every_cut(order, limits, only, start, taps, quad_bits, thread_rows):
    """Tiles that wait for their neighbours, several of them for each block; inputs in the kernel and, by strides, outside it."""
    limits["MultiProcessorCount"] = 10
    only(start, quad_bits=quad_bits, thread_rows=thread_rows)
    kind = {1: "_rows", 3: "_taps3", 5: "_taps5"}.get(taps, "_taps")
    for number, (padding, strides) in enumerate((("same", 1), ("valid", 1), ("same", 2))):
        spec = conv_spec(9, taps, padding=padding, strides=strides, return_sequences=True)
        given = problem(spec, 2, 3, 4, rows=(21 + taps) * strides, masked=number == 0)
        sizes, sizes_back = sizes_of(spec, given), sizes_of(spec, given, tiles.back)
        assert (sizes is None) == (4 * thread_rows < taps - 1)
        assert (sizes_back is None) == (sizes is None)
        if sizes is not None:
            assert (sizes.x_channels > 0) == (strides == 1)
            fake_cupy.launches.clear()
            check(spec, "float64", given)
            assert {sizes.name, sizes_back.name} <= set(fake_cupy.launches)
            assert taps == 1 or (sizes.name, sizes_back.name) == tuple(f"{name}{kind}" for name in NAMES[start])


def test_inputs_whose_weights_do_not_fit_are_multiplied_before(cupy, limits, only):
    only("resident")
    spec = conv_spec(16, 3, padding="same", return_sequences=True)
    given = problem(spec, 2, 3, 60, rows=12)
    limits |= {"MultiProcessorCount": 8, "MaxSharedMemoryPerBlockOptin": 16 * 1024}
    assert sizes_of(spec, given).x_channels == 0
    check(spec, "float64", given)
    limits["MaxSharedMemoryPerBlockOptin"] = 200 * 1024
    assert sizes_of(spec, given).x_channels == 60
    check(spec, "float64", given)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@starts
def test_channels_in_several_slabs(order, limits, only, start, dtype):
    """More channels than a block carries at once, the last slab shorter; of h and of x."""
    limits |= {"MultiProcessorCount": 16, "MaxSharedMemoryPerBlockOptin": 227 * 1024}
    only(start, "_rows", quad_bits=4, thread_rows=16)
    spec = lstm_spec(150, return_sequences=True)
    given = problem(spec, 66, 2, 3)
    assert sizes_of(spec, given).slab < 75
    check(spec, dtype, given)
    only(start, quad_bits=2, thread_rows=8)
    conv = conv_spec(100, 3, padding="same", return_sequences=True)
    given = problem(conv, 1, 2, 150, rows=33)
    limits["MultiProcessorCount"] = 64
    assert sizes_of(conv, given).slab < 100
    check(conv, dtype, given)


DEVICES = [H100, tiles.Limits(108, 163 * 1024, True), tiles.Limits(40, 64 * 1024, True)]


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("device", DEVICES, ids=["132 processors", "108", "40"])
def test_grids_of_devices(device, itemsize):
    """For all workloads, in all ways: every unit and row is covered, all blocks are resident, everything fits."""
    for case in ALL.values():
        layout = Layout.of(case.make_layer().spec, (case.batch, case.steps, case.rows, case.features))
        for way, columns in (
            (tiles.together, layout.units),
            (tiles.each, layout.units),
            (tiles.back, math.ceil(layout.units / 4)),
        ):
            sizes = way(layout, itemsize, device)
            assert sizes is not None
            assert sizes.grid[0] << sizes.quad_bits >= columns
            assert sizes.groups * sizes.group_rows >= layout.rows
            assert sizes.group_tiles * sizes.tile_rows >= sizes.group_rows
            assert way is tiles.each or sizes.grid[0] * sizes.grid[1] <= device.processors
            assert way is not tiles.each or sizes.grid[1] == sizes.groups * sizes.group_tiles
            assert sizes.threads in (32, 64, 128, 256)
            assert sizes.shared <= device.shared
            assert sizes.slab_pitch % 4 == 0
            assert sizes.pitch % 4 == 0
            assert sizes.slab * sizes.slab_pitch * itemsize <= tiles.PIECES * tiles.PIECE * sizes.threads
            if device is H100 and itemsize == 4 and way is not tiles.each:
                assert not sizes.streamed


def test_weights_that_do_not_fit_are_streamed():
    for units, streamed in ((512, False), (1024, False), (1280, True), (4096, True)):
        layout = Layout.of(lstm_spec(units), (1, 3, 1, 4))
        found = [way(layout, 4, H100) for way in (tiles.together, tiles.back)]
        assert [sizes is not None and sizes.streamed for sizes in found] == [streamed] * 2
        assert [way(layout, 4, H100._replace(cooperative=False)) for way in (tiles.together, tiles.back)] == [None] * 2
    assert tiles.together(Layout.of(lstm_spec(20000), (1, 3, 1, 4)), 4, H100) is None


def test_a_small_grid_of_a_large_device_spreads_over_it():
    """64 samples of 512 units: four groups of samples beside each other, not one that reads all of h in every block."""
    sizes = tiles.together(Layout.of(lstm_spec(512), (64, 100, 1, 512)), 4, H100)
    assert sizes is not None
    assert sizes.grid[0] * sizes.grid[1] == 128
    assert sizes.grid[1] > 1


# -- what the shim notices ------------------------------------------------------------------------------------------------
BARRIERS = 6  # in tiles.cuh


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


SMALL = {"MultiProcessorCount": 9, "MaxSharedMemoryPerBlockOptin": 128 * 1024}
ALONE = {"CooperativeLaunch": 0, "MultiProcessorCount": 132}
LSTMS = [lstm_spec(units, return_sequences=True) for units in (33, 40)]
CONV = conv_spec(9, 3, padding="same", return_sequences=True)
# Device, what it takes, a spec, a problem: several blocks; few samples; several slabs; neighbours; streamed; one launch a step.
PROBLEMS = [
    (SMALL, {"start": "resident"}, LSTMS[0], {"count": 40, "steps": 3, "channels": 3}),
    (SMALL, {"start": "resident", "quad_bits": 2}, LSTMS[0], {"count": 1, "steps": 4, "channels": 3}),
    (SMALL, {"start": "resident", "thread_rows": 16}, LSTMS[1], {"count": 66, "steps": 2, "channels": 2}),
    (SMALL, {"start": "resident"}, CONV, {"count": 2, "steps": 3, "channels": 40, "rows": 9, "masked": True}),
    (SMALL, {"start": "streamed", "thread_rows": 16}, LSTMS[1], {"count": 66, "steps": 2, "channels": 2}),
    (ALONE, {}, CONV, {"count": 1, "steps": 2, "channels": 40, "rows": 9}),
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
    both = {f"{way}_{kind}" for way in ("sequence", "back") for kind in ("row", "rows", "taps3")}
    assert both | {"streamed_rows", "streamed_back_rows", "streamed_taps3", "cell_backward"} <= set(fake_cupy.launches)


@pytest.mark.parametrize("number", range(BARRIERS))
def test_every_deleted_barrier_is_noticed(cupy, only, number):
    with fake_cupy.edited(without(barriers()[number])):
        assert is_noticed(only)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("< times * gridDim.x) FL_WAITING();", "< 0) FL_WAITING();"),
        ("< times * gridDim.x) FL_WAITING();", "< (times + 1) * gridDim.x) FL_WAITING();"),
        ("(tiles.taps > 1 && other >= 0 && other < tiles.group_tiles)", "false"),
        ("row < io.tiles.group_rows && m < cell.rows", "row <= io.tiles.group_rows && m < cell.rows"),
        ("row < io.tiles.group_rows && m < cell.rows", "row < io.tiles.group_rows && m <= cell.rows"),
        (
            "values[0] += __shfl_xor_sync(FL_FULL_WARP, values[0], HALF)",
            "if (threadIdx.x) values[0] += __shfl_xor_sync(FL_FULL_WARP, values[0], HALF)",
        ),
        ("*turn ^= 1;", ""),
        ("(t + 1) * samples : (const", "t * samples : (const"),
        ("io.exchange + (t & 1)", "io.exchange + (t + 1 & 1)"),
    ],
    ids=["no wait", "a wait that never ends", "no wait for neighbours", "a row of the next group", "a row too many",
         "a divergent shuffle", "one slab's room alone", "another step's mask", "the other half of the exchange"],
)  # fmt: skip
def test_other_mutations_are_noticed(cupy, only, written, instead):
    assert written in kernels.source(64)
    with fake_cupy.edited(lambda source: source.replace(written, instead)):
        assert is_noticed(only)
