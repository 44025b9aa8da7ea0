"""``export_c`` and ``fastlstm export-c``: exported models give what ``predict`` gives; what cannot be exported is named.

Each model is compiled with all warnings as errors and run by tests/c/exported.c; a step function is compared with ``predict`` on
every beginning of the sequences.
"""

from __future__ import annotations

import functools
import re
import subprocess

import numpy as np
import pytest
from c_programs import C11, CXX17, EXTRA, ISA_FLAGS, ROOT, STRICT, X86, compile_with, compiler, run

import fastlstm
from fastlstm import _core
from fastlstm.cli import main
from fastlstm.export import Unsupported, export_c
from fastlstm.layers import (
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
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    InputLayer,
    LayerNormalization,
    LeakyReLU,
    Masking,
    MaxPooling1D,
    Permute,
    ReLU,
    RepeatVector,
    Reshape,
    Softmax,
    TimeDistributed,
)

MODELS = {
    "last": ((7, 3), lambda: [LSTM(5), Dense(4, "softmax")]),
    "sequences": ((7, 3), lambda: [LSTM(20, return_sequences=True), Dropout(0.5), LSTM(6, "relu", "hard_sigmoid"), Dense(2)]),
    "every_step": ((6, 3), lambda: [Dense(4, "gelu"), LSTM(5, return_sequences=True), TimeDistributed(Dense(2, "softmax"))]),
    "masked": ((8, 3), lambda: [Masking(), LSTM(5, return_sequences=True), BatchNormalization(), LSTM(4), Dense(3, "selu")]),
    "masked_zeros": (
        (8, 3),
        lambda: [Masking(-1.5), LSTM(5, return_sequences=True, zero_output_for_mask=True), LSTM(4, zero_output_for_mask=True)],
    ),
    "no_bias": ((5, 2), lambda: [LSTM(3, use_bias=False, return_sequences=True), Dense(2, use_bias=False), Activation("tanh")]),
    "backwards": ((6, 3), lambda: [LSTM(5, go_backwards=True), Activation("softmax")]),
    "both_ways": ((6, 3), lambda: [Bidirectional(LSTM(5, return_sequences=True)), Bidirectional(LSTM(4), merge_mode="sum")]),
    "averaged": (
        (6, 3),
        lambda: [
            Masking(),
            Bidirectional(LSTM(5, return_sequences=True), merge_mode="ave"),
            Bidirectional(LSTM(5, return_sequences=True), merge_mode="mul"),
            GlobalAveragePooling1D(),
        ],
    ),
    "rows": ((4, 9, 2), lambda: [ConvLSTM1D(3, 3, strides=2, padding="same"), Flatten(), Dense(4)]),
    "rows_sequences": (
        (4, 9, 2),
        lambda: [ConvLSTM1D(3, 2, dilation_rate=2, return_sequences=True), BatchNormalization(), ConvLSTM1D(2, 3), Dense(2)],
    ),
    "rows_both_ways": ((3, 6, 2), lambda: [Bidirectional(ConvLSTM1D(3, 2, padding="same", return_sequences=True)), Flatten()]),
    "convolution": (
        (20, 3),
        lambda: [
            Conv1D(6, 3, padding="same", activation="relu"),
            MaxPooling1D(3, padding="same"),
            Conv1D(4, 2, padding="causal", dilation_rate=2),
            AveragePooling1D(2, 1, padding="same"),
            Conv1D(5, 3, strides=2),
            LSTM(4, return_sequences=True),
            GlobalMaxPooling1D(),
        ],
    ),
    "reshaped": ((12,), lambda: [Reshape((4, 3)), LSTM(5), Dense(6), Reshape((3, 2)), LSTM(2)]),
    "autoencoder": (
        (6, 3),
        lambda: [
            LSTM(4, "relu"),
            RepeatVector(5),
            LSTM(4, return_sequences=True),
            TimeDistributed(Dense(3)),
            ReLU(0.5, 0.1, 0.2),
        ],
    ),
    "flat_steps": (
        (4, 9, 2),
        lambda: [
            ConvLSTM1D(3, 3, return_sequences=True),
            TimeDistributed(LeakyReLU()),
            TimeDistributed(Dropout(0.2)),
            TimeDistributed(Flatten()),
            TimeDistributed(Reshape((7, 3))),
            ELU(0.7),
            TimeDistributed(Flatten()),
            TimeDistributed(Dense(6)),
            LSTM(5),
            Softmax(),
        ],
    ),
    "repeated_every_step": ((5, 3), lambda: [LSTM(4), RepeatVector(3), ReLU(negative_slope=0.5), Dense(2), LeakyReLU(0.1)]),
    "nested": ((5, 3), lambda: [fastlstm.Sequential([LSTM(4, return_sequences=True), Dense(3)]), LSTM(2)]),
    "nothing": ((5, 3), lambda: [Dropout(0.5)]),
}
# Those with a step function.
CAUSAL = {"last", "sequences", "every_step", "masked", "masked_zeros", "no_bias", "rows", "rows_sequences", "nested", "nothing"}
CAUSAL |= {"flat_steps", "repeated_every_step"}
TOLERANCE = 5e-6  # the models calculate in float32


def made(name):
    """A model with weights that are no defaults: biases, gamma, moving averages and variances are positive."""
    shape, layers = MODELS[name]
    model = fastlstm.Sequential([InputLayer(shape), *layers()], name=name)
    rng = np.random.default_rng(7)
    weights = [rng.normal(0, 0.4, w.shape) if w.ndim > 1 else rng.uniform(0.1, 1, w.shape) for w in model.get_weights()]
    model.set_weights([w.astype(np.float32) for w in weights])
    return model


def samples(name, count=3):
    shape = MODELS[name][0]
    x = np.random.default_rng(3).normal(size=(count, *shape)).astype(np.float32)
    if "mask" in name or name == "averaged":
        value = -1.5 if name == "masked_zeros" else 0
        x[0, :2] = x[1, 3] = x[1, -1] = x[2] = value  # the last sample has no valid step
        if name == "averaged":
            x[2, 4] = 1
    return x


@functools.cache
def library(compiler_name, isa_flags):
    """The C library as an object file, built once."""
    command = compiler(compiler_name)
    return compile_with(command, [ROOT / "tests/c/library.c"], *C11, *STRICT, "-O1", "-c", *isa_flags, *EXTRA)


def built(folder, name, isa_flags, language="c", compiler_name="gcc", alone=False):
    """The program of an exported model in ``folder``/<name>.h, by what the header says of it. ``alone``: of one file."""
    text = (folder / f"{name}.h").read_text()
    upper = name.upper()
    macros = [f'-DHEADER="{name}.h"', f"-DMODEL={name}", f"-DMEMORY_BYTES={upper}_MEMORY_BYTES"]
    macros += [f"-D{what}={upper}_{what}" for what in ("INPUTS", "OUTPUTS", "STEPS", "STEP_OUTPUTS")]
    macros += ["-DREAL=double" if "double *x" in text else "-DREAL=float", *(["-DHAS_STEP"] if f"{name}_step(" in text else [])]
    macros += ["-DALONE"] if alone else []
    standard = ["-x", "c++", *CXX17] if language == "c++" else C11
    command, source = compiler(compiler_name, language), ROOT / "tests/c/exported.c"
    flags = [*standard, *STRICT, "-O1", f"-I{folder}", *macros, *isa_flags, *EXTRA]
    if alone:
        return compile_with(command, [source], *flags)
    main_file = compile_with(command, [source], *flags, "-c")
    return compile_with(command, [main_file, library(compiler_name, isa_flags)], *EXTRA)


def answers(program, x, outputs, steps, step_outputs):
    """run's y [N,outputs] and step's y [N,T,step_outputs]; and the bytes of memory that init asked for."""
    out, said = run([program], x.tobytes())
    numbers = np.frombuffer(out, x.dtype).reshape(len(x), outputs + steps * step_outputs)
    return numbers[:, :outputs], numbers[:, outputs:].reshape(len(x), steps, step_outputs), int(said)


def native():
    return ISA_FLAGS[_core.isa] if X86 else ()


def compare(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_c_gives_what_predict_gives(name, dtype, tmp_path):
    model, x = made(name), samples(name)
    lines = export_c(model, tmp_path / f"{name}.h", dtype=dtype)
    assert ("no " in lines[-1]) == (name not in CAUSAL), lines
    want = model.predict(x, verbose=0)
    steps = x.shape[1] if name in CAUSAL else 0
    outputs = want[0].size
    step_outputs = outputs // (want.shape[1] if name in ("every_step", "no_bias", "nothing") else 1) if steps else 0
    whole, stepped, _ = answers(built(tmp_path, name, native()), x.astype(dtype), outputs, steps, step_outputs)
    compare(whole, want.reshape(len(x), -1))
    for t in range(steps):
        beginning = model.predict(x, verbose=0)[:, : t + 1] if name in ("every_step", "no_bias", "nothing") else None
        want = beginning[:, -1] if beginning is not None else prefix(model, x[:, : t + 1])
        compare(stepped[:, t], want.reshape(len(x), -1))


def prefix(model, x):
    """What the model's layers give for the first steps alone (the model itself takes sequences of one length)."""
    mask = None
    for layer in model.layers:
        inner = layer.layers if isinstance(layer, fastlstm.Sequential) else [layer]
        for one in inner:
            after = one.compute_mask(x, mask)
            x = one(x, mask=mask)
            mask = after
    return x


def test_a_step_of_a_model_without_operations_copies_one_step(tmp_path):
    export_c(made("nothing"), tmp_path / "nothing.h")
    copies = re.findall(r"memcpy\(y, x, (\d+) \*", (tmp_path / "nothing.h").read_text())
    assert copies == ["15", "3"]  # run's [5,3], step's [3]


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "one_lane"])
def test_memory_is_what_the_header_says(isa, tmp_path):
    """MEMORY_BYTES is exact for the widest vectors and for one lane, and enough for all."""
    if isa not in (*_core.isa_available(), "one_lane") or not X86:
        pytest.skip(f"this processor does not run {isa}")
    for name in ("masked", "rows", "convolution", "both_ways"):
        export_c(made(name), tmp_path / f"{name}.h")
        said = {int(number) for number in re.findall(r"MEMORY_BYTES (\d+)", (tmp_path / f"{name}.h").read_text())}
        *_, taken = answers(built(tmp_path, name, ISA_FLAGS[isa]), samples(name)[:0].reshape(0, 1), 1, 0, 0)
        assert taken == min(said) if isa == "one_lane" else taken <= max(said)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_that_stay_in_flash_give_the_same_bits(name, dtype, tmp_path):
    """``one_lane``: the header holds what the pack functions would write; memory is the less by them."""
    model, x = made(name), samples(name).astype(dtype)
    export_c(model, tmp_path / f"{name}.h", dtype=dtype)
    outputs = model.predict(samples(name), verbose=0)[0].size
    one_lane = ISA_FLAGS["one_lane"]
    run_alone = [f"{name}_step(" in (tmp_path / f"{name}.h").read_text()]
    packed = run([built(tmp_path, name, one_lane)], x.tobytes())
    export_c(model, tmp_path / f"{name}.h", dtype=dtype, one_lane=True)
    stored = run([built(tmp_path, name, one_lane)], x.tobytes())
    assert run_alone == [f"{name}_step(" in (tmp_path / f"{name}.h").read_text()]
    assert len(stored[0]) >= outputs * x.itemsize
    assert stored[0] == packed[0]
    assert int(stored[1]) < int(packed[1]) or name == "nothing"


def test_weights_of_one_lane_are_refused_elsewhere(tmp_path):
    if _core.isa == "generic" and not X86:
        pytest.skip("needs vectors")
    export_c(made("last"), tmp_path / "last.h", one_lane=True)
    program = built(tmp_path, "last", native())
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "weights were packed for another instruction set" in done.stderr


def test_large_panels_with_gaps_fit_their_memory(tmp_path):
    """Panels between 128 and 640 KiB get gaps on AVX-512, and x is projected ahead."""
    model = fastlstm.Sequential([InputLayer((40, 64)), LSTM(128, return_sequences=True), LSTM(70)])
    export_c(model, tmp_path / "large.h")
    x = np.random.default_rng(0).normal(size=(2, 40, 64)).astype(np.float32)
    whole, stepped, _ = answers(built(tmp_path, "large", native()), x, 70, 40, 70)
    np.testing.assert_array_equal(stepped[:, -1], whole)
    compare(whole, model.predict(x, verbose=0))


@pytest.mark.parametrize(("compiler_name", "language"), [("gcc", "c"), ("gcc", "c++"), ("clang", "c"), ("zig", "c++")])
def test_every_compiler_takes_an_exported_model(compiler_name, language, tmp_path):
    model, x = made("masked"), samples("masked")
    export_c(model, tmp_path / "masked.h")
    whole, *_ = answers(built(tmp_path, "masked", native(), language, compiler_name, alone=True), x, 3, 8, 3)
    compare(whole, model.predict(x, verbose=0))


# -- what cannot be exported ----------------------------------------------------------------------------------------------------
REFUSED = {
    "an unknown layer": ([LSTM(3, return_sequences=True), LayerNormalization()], "LayerNormalization cannot be exported"),
    "an axis activation": ([LSTM(3, "softmax")], "'softmax' acts over an axis"),
    "a function": ([Dense(3, lambda x: x)], "is none of the C library's"),
    "states": ([LSTM(3, return_state=True)], "returns its states"),
    "two outputs": ([Bidirectional(LSTM(3), merge_mode=None)], "merge_mode is None"),
    "channels first": ([Conv1D(3, 2, data_format="channels_first")], "channels_first"),
    "groups": ([Conv1D(3, 2, groups=3)], "its groups 3"),
    "16 bits": ([LSTM(3, dtype="float16")], "float16"),
    "an axis of softmax": ([Softmax(axis=1)], "its axis is 1"),
    "a masked softmax": ([Masking(), Softmax()], "a mask arrives"),
    "a convolution of each step": ([Reshape((5, 3, 1)), TimeDistributed(Conv1D(2, 2))], "it holds a Conv1D"),
    "another axis": ([BatchNormalization(axis=1)], "normalizes axis 1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_exported_is_named(what, tmp_path):
    layers, message = REFUSED[what]
    model = fastlstm.Sequential([InputLayer((5, 3)), *layers])
    with pytest.raises(Unsupported, match=re.escape(message)) as caught:
        export_c(model, tmp_path / "model.h")
    assert f'layer "{layers[-1].name}"' in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_all_layers_that_cannot_be_exported_are_named_at_once(tmp_path):
    model = fastlstm.Sequential([InputLayer((5, 3)), Permute((2, 1), name="turn"), LayerNormalization(name="norm"), LSTM(2)])
    with pytest.raises(Unsupported, match=r'layer "turn".*layer "norm"'):
        export_c(model, tmp_path / "model.h")
    with pytest.raises(Unsupported, match="Only Sequential"):
        export_c(fastlstm.Model(*[fastlstm.Input((3,))] * 2), tmp_path / "model.h")


def test_sizes_that_are_open_must_be_given(tmp_path):
    model = fastlstm.Sequential([InputLayer((None, 3)), LSTM(2)])
    with pytest.raises(ValueError, match="--steps"):
        export_c(model, tmp_path / "model.h")
    assert "lstm_step" in export_c(model, tmp_path / "lstm.h", steps=9)[0]
    assert "#define LSTM_STEPS 9" in (tmp_path / "lstm.h").read_text()
    with pytest.raises(ValueError, match="do not fit"):
        export_c(fastlstm.Sequential([InputLayer((4, 3)), LSTM(2)]), tmp_path / "model.h", steps=5)
    with pytest.raises(ValueError, match="leaves sizes open"):
        export_c(fastlstm.Sequential([InputLayer((None,)), Embedding(4, 2)]), tmp_path / "model.h")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = fastlstm.Sequential([InputLayer((4, 3)), LSTM(2, name="first")])
    weights = model.get_weights()
    weights[0][0, 0] = np.inf
    model.set_weights(weights)
    with pytest.raises(Unsupported, match='layer "first": its kernel holds'):
        export_c(model, tmp_path / "model.h")


@pytest.mark.parametrize("name", ["", "9a", "a-b", "while", "fastlstm_x", "ä", "co_await", "xor", "index", "size_t"])
def test_names_that_c_does_not_take_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="C identifier"):
        export_c(made("last"), tmp_path / "model.h", name=name)


NAMES = {
    "of the exported text": ["at", "bytes", "layer", "lay_out", "model", "named", "reset", "status"],
    "of C and C++": ["while", "NULL", "nullptr", "xor", "concept", "size_t", "uintptr_t", "linux", "_Bool", "I"],
    "that become the same": ["9.lives", "9 lives", "a b", "a-b", "LSTM", "lstm", "é", "ü"],
    "made of another and an end": ["lstm", "lstm_h", "lstm_c", "lstm_recurrent", "lstm_forward_h", "lstm_backward"],
    "that the text replaces": ["UPPER", "PREFIX_x", "WORKSPACE", "My_WORKSPACE", "TRY", "real", "FASTLSTM_OK"],
}


@pytest.mark.parametrize("language", ["c", "c++"])
@pytest.mark.parametrize("kind", NAMES)
def test_names_of_layers_become_identifiers(kind, language, tmp_path):
    """Also names that C, C++ or the exported text uses itself, and several that become the same."""
    layers = [LSTM(3, return_sequences=True, name=name) for name in NAMES[kind]]
    model = fastlstm.Sequential([InputLayer((4, 3)), *layers, BatchNormalization(name="scale")])
    export_c(model, tmp_path / "named.h")
    x = samples("last")[:, :4]
    whole, *_ = answers(built(tmp_path, "named", native(), language), x, 12, 4, 3)
    compare(whole, model.predict(x, verbose=0).reshape(len(x), -1))


@pytest.mark.parametrize("name", ["my model-2", "signal", "index", "y0", "class", "real", "net_WORKSPACE", "size_t"])
def test_names_of_files_become_identifiers(name, tmp_path):
    """Also those of functions whose headers the program includes, and a model and its layer of one name."""
    export_c(fastlstm.Sequential([InputLayer((4, 3)), LSTM(3, name="net_WORKSPACE")]), tmp_path / f"{name}.h")
    text = (tmp_path / f"{name}.h").read_text()
    prefix = re.search(r"(\w+)_run\(", text)[1]
    assert prefix == {"my model-2": "my_model_2", "net_WORKSPACE": name}.get(name, f"{name}_")
    includes = [f"#include <{header}.h>\n" for header in ("math", "signal", "stdio", "stdlib", "string", "time", "unistd")]
    use = f'#include "{name}.h"\nint main(void) {{ {prefix} model; return {prefix}_init(&model, NULL, 0) == FASTLSTM_OK; }}\n'
    source = tmp_path / "main.c"
    source.write_text("#define FASTLSTM_IMPLEMENTATION\n" + "".join(includes) + use)
    for standard, language in ((("-std=gnu11",), "c"), (("-x", "c++", "-std=gnu++20"), "c++")):
        run([compile_with(compiler("gcc", language), [source], *standard, *STRICT, f"-I{tmp_path}", *EXTRA)], b"")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_mask_values_that_are_no_numbers(value, tmp_path):
    """NaN masks nothing, infinity masks infinity, as do numbers beyond float32."""
    model = fastlstm.Sequential([InputLayer((5, 3)), Masking(value), LSTM(4), Dense(3)])
    x = samples("last")[:, :5]
    x[0, 2] = x[1, 0] = np.copysign(np.inf, value)
    export_c(model, tmp_path / "marked.h")
    whole, *_ = answers(built(tmp_path, "marked", native()), x, 3, 5, 3)
    with np.errstate(over="ignore"):
        compare(whole, model.predict(x, verbose=0))


# -- the command ----------------------------------------------------------------------------------------------------------------
def test_the_command_writes_a_header(tmp_path, capsys):
    to = tmp_path / "voice.h"
    assert main(["export-c", str(ROOT / "examples/speakers.keras"), "-o", str(to)]) == 0
    said = capsys.readouterr().out
    assert "voice_init, voice_run; 17769 weights in float" in said
    assert 'no voice_step: layer "bi1": it goes backwards over time' in said
    text = to.read_text()
    assert text.startswith("/* voice.h: the model speakers.keras in C")
    assert max(map(len, text.splitlines())) <= 130
    assert main(["export-c", str(ROOT / "examples/activity.keras"), "-o", str(to), "--name", "mine", "--dtype", "float64"]) == 0
    assert "mine_step(mine *model, const double *x" in to.read_text()


def test_the_command_explains_what_is_wrong(tmp_path, capsys):
    model = str(ROOT / "examples/speakers.keras")
    assert main(["export-c", model, "-o", str(tmp_path / "model.txt")]) == 2
    assert "must end in .h" in capsys.readouterr().err
    assert main(["export-c", model, "-o", str(tmp_path / "no/model.h")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["export-c", model, "-o", str(tmp_path / "model.h"), "--steps", "3"]) == 2
    assert "steps=3" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
