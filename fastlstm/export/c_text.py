"""The text of an exported header: numbers, helper functions, and the functions init, reset, run and step.

In terms of ``pieces``; called by ``export_c`` with the finished Operations. ``@`` in a line of C stands for f32 or f64, ``real``
for float or double, PREFIX and UPPER for the model's name, TRY(call) for a call whose status is returned where it is not
FASTLSTM_OK.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from .pieces import ALIGNMENT, Operation, Piece, Place, numbers, rounded

HELPERS = {
    "mask": """\
/* valid [rows] = 1 where a row of x [rows,width] holds another number than `value`; y = x there, else zeros. Returns the last. */
static inline int PREFIX_mask(ptrdiff_t rows, ptrdiff_t width, real value, const real *x, unsigned char *valid,
                              real *y) {
  for (ptrdiff_t n = 0; n < rows; n++) {
    valid[n] = 0;
    for (ptrdiff_t k = 0; k < width; k++)
      if (x[n * width + k] != value) valid[n] = 1;
    for (ptrdiff_t k = 0; k < width; k++) y[n * width + k] = valid[n] ? x[n * width + k] : 0;
  }
  return valid[rows - 1];
}
""",
    "concatenate": """\
/* y [T,R,A+B] = a [T,R,A] beside b [T,R,B] turned round in time. */
static inline void PREFIX_concatenate(ptrdiff_t T, ptrdiff_t R, ptrdiff_t A, ptrdiff_t B, const real *a, const real *b,
                                      real *y) {
  for (ptrdiff_t t = 0; t < T; t++)
    for (ptrdiff_t r = 0; r < R; r++, y += A + B) {
      memcpy(y, a + (t * R + r) * A, (size_t)A * sizeof(real));
      memcpy(y + A, b + ((T - 1 - t) * R + r) * B, (size_t)B * sizeof(real));
    }
}
""",
    "merge": """\
/* y [T,R,A] = a [T,R,A] and b [T,R,B = A] turned round in time: their sum ('s'), product ('m') or average ('a'). */
static inline void PREFIX_merge(char how, ptrdiff_t T, ptrdiff_t R, ptrdiff_t A, ptrdiff_t B, const real *a, const real *b,
                                real *y) {
  for (ptrdiff_t t = 0; t < T; t++)
    for (ptrdiff_t k = 0; k < R * A; k++) {
      const real one = a[t * R * A + k], other = b[(T - 1 - t) * R * B + k];
      y[t * R * A + k] = how == 'm' ? one * other : how == 's' ? one + other : (one + other) / 2;
    }
}
""",
    "scale_shift": """\
/* y [rows,width] = x * scale [width] + shift [width]. */
static inline void PREFIX_scale_shift(ptrdiff_t rows, ptrdiff_t width, const real *scale, const real *shift, const real *x,
                                      real *y) {
  for (ptrdiff_t n = 0; n < rows; n++)
    for (ptrdiff_t k = 0; k < width; k++) y[n * width + k] = x[n * width + k] * scale[k] + shift[k];
}
""",
    "rectify": """\
/* y [count]: x above the threshold, at most `most` where `capped`; 0 at it and slope * (x - threshold) below it. */
static inline void PREFIX_rectify(ptrdiff_t count, real slope, real threshold, real most, int capped, const real *x, real *y) {
  for (ptrdiff_t k = 0; k < count; k++) {
    const real above = x[k] <= threshold ? 0 : x[k];
    y[k] = capped && above > most ? most : above;
    if (x[k] < threshold && slope > 0) y[k] = -slope * (threshold - x[k]);
  }
}
""",
    "scale_below": """\
/* y [count]: times alpha below 0. */
static inline void PREFIX_scale_below(ptrdiff_t count, real alpha, real *y) {
  for (ptrdiff_t k = 0; k < count; k++)
    if (y[k] < 0) y[k] *= alpha;
}
""",
    "repeat": """\
/* y [count,width]: x [width] in each row. */
static inline void PREFIX_repeat(ptrdiff_t count, ptrdiff_t width, const real *x, real *y) {
  for (ptrdiff_t n = 0; n < count; n++) memcpy(y + n * width, x, (size_t)width * sizeof(real));
}
""",
    "max_pool": """\
/* y [count,width]: the largest of each window of `size` steps of x [steps,width]; the first begins `left` steps before x. */
static inline void PREFIX_max_pool(ptrdiff_t steps, ptrdiff_t width, ptrdiff_t count, ptrdiff_t size, ptrdiff_t stride,
                                   ptrdiff_t left, const real *x, real *y) {
  for (ptrdiff_t n = 0; n < count; n++)
    for (ptrdiff_t k = 0; k < width; k++) {
      const ptrdiff_t first = n * stride - left > 0 ? n * stride - left : 0;
      real best = x[first * width + k];
      for (ptrdiff_t t = first + 1; t < n * stride - left + size && t < steps; t++)
        if (x[t * width + k] > best || x[t * width + k] != x[t * width + k]) best = x[t * width + k];
      y[n * width + k] = best;
    }
}
""",
    "average_pool": """\
/* As max_pool, the average of the steps of a window that exist. */
static inline void PREFIX_average_pool(ptrdiff_t steps, ptrdiff_t width, ptrdiff_t count, ptrdiff_t size, ptrdiff_t stride,
                                       ptrdiff_t left, const real *x, real *y) {
  for (ptrdiff_t n = 0; n < count; n++)
    for (ptrdiff_t k = 0; k < width; k++) {
      const ptrdiff_t first = n * stride - left > 0 ? n * stride - left : 0;
      const ptrdiff_t end = n * stride - left + size < steps ? n * stride - left + size : steps;
      real sum = 0;
      for (ptrdiff_t t = first; t < end; t++) sum += x[t * width + k];
      y[n * width + k] = sum / (real)(end - first);
    }
}
""",
    "average": """\
/* y [width]: the average of x [steps,width] over the steps that count; NaN where none does. valid [steps], or NULL: all count. */
static inline void PREFIX_average(ptrdiff_t steps, ptrdiff_t width, const unsigned char *valid, const real *x, real *y) {
  for (ptrdiff_t k = 0; k < width; k++) {
    real sum = 0, count = 0;
    for (ptrdiff_t t = 0; t < steps; t++)
      if (!valid || valid[t]) {
        sum += x[t * width + k];
        count += 1;
      }
    y[k] = sum / count;
  }
}
""",
}


class Text:
    """Writes one model. ``steps_reason``: why there is no step function, or None. ``one_lane``: weights stand in the header as
    processors without vectors read them, and are not packed into memory."""

    def __init__(
        self,
        prefix: str,
        operations: list[Operation],
        dtype: np.dtype,
        timed: bool,
        steps_reason: str | None,
        one_lane: bool = False,
    ):
        self.one_lane = one_lane
        self.prefix, self.operations, self.timed, self.steps_reason = prefix, operations, timed, steps_reason
        self.real, self.suffix = ("float", "f32") if dtype == np.float32 else ("double", "f64")
        self.size = dtype.itemsize
        self.pieces = [piece for operation in operations for piece in operation.pieces]
        self.before, self.after = operations[0].before, operations[-1].after
        self.buffer = max(numbers(operation.after) for operation in operations)
        self.scratch = max(operation.scratch for operation in operations)
        self.mask = max((operation.after[0] for operation in operations if operation.makes_mask), default=0)

    def c(self, text: str) -> str:
        """A text of C with this model's names."""
        meant = {"UPPER": self.prefix.upper(), "PREFIX": self.prefix, "_@": f"_{self.suffix}", "real": self.real}
        meant["WORKSPACE"] = "model->workspace, model->workspace_bytes"
        text = re.sub(r"UPPER|PREFIX|_@|\breal\b|WORKSPACE", lambda match: meant[match[0]], text)
        return re.sub(r"^( *)TRY\((.*)\);$", r"\1status = \2;\n\1if (status != FASTLSTM_OK) return status;", text, flags=re.M)

    # -- numbers ------------------------------------------------------------------------------------------------------------
    def array(self, name: str, array: np.ndarray) -> str:
        """``static const float name[12] = {…}``: hexadecimal, so that every bit is kept."""
        end = "f" if self.suffix == "f32" else ""
        words = [short_hex(value) + end for value in array.ravel().tolist()]
        rows = [f"    {', '.join(words[k : k + 6])}," for k in range(0, len(words), 6)]
        shape = ",".join(map(str, array.shape))
        body = "\n".join(rows)
        return f"static const {self.real} {self.prefix}_{name}[{array.size}] = {{ /* [{shape}] */\n{body}\n}};\n"

    def arrays(self) -> Iterator[str]:
        for piece in self.pieces:
            if self.one_lane:
                yield f"FASTLSTM_ALIGNED {self.array(f'{piece.name}_packed', piece.packed_for_one_lane())}"
                continue
            for name, array in piece.arrays.items():
                if array is not None:
                    yield self.array(f"{piece.name}_{name}", array)
        for operation in self.operations:
            for name, array in operation.constants.items():
                yield self.array(name, array)

    # -- sizes --------------------------------------------------------------------------------------------------------------
    def memory(self, vector: int) -> int:
        """Bytes that init asks for, with vectors of ``vector`` bytes (0: one lane)."""
        size = 0 if self.one_lane else sum(piece.packed_bytes(self.size, vector) for piece in self.pieces)
        size += 2 * rounded(self.buffer * self.size) + rounded(self.scratch * self.size) + rounded(self.mask)
        size += sum(2 * rounded(piece.states * self.size) for piece in self.stepped())
        return size + max([ALIGNMENT, *(piece.workspace_bytes(self.size, vector, steps) for piece, steps in self.in_time())])

    def stepped(self) -> list[Piece]:
        """The pieces whose states step keeps."""
        return [piece for piece in self.pieces if piece.is_recurrent] if self.steps_reason is None else []

    def in_time(self) -> list[tuple[Piece, int]]:
        """Each piece and the steps of a run."""
        return [(piece, operation.before[0]) for operation in self.operations for piece in operation.pieces]

    # -- functions ----------------------------------------------------------------------------------------------------------
    def struct(self) -> str:
        fields = [f"  fastlstm_{piece.kind}_@ {piece.name};" for piece in self.pieces]
        fields += [f"  real *{piece.name}_h, *{piece.name}_c; /* [{piece.states}] */" for piece in self.stepped()]
        fields += [f"  real *buffer[2]; /* [{self.buffer}] */"]
        fields += [f"  real *scratch; /* [{self.scratch}] */"] if self.scratch else []
        fields += [f"  unsigned char *mask; /* [{self.mask}] */"] if self.mask else []
        fields += ["  void *workspace;", "  size_t workspace_bytes;"]
        return "\n".join(["typedef struct PREFIX {", *fields, "} PREFIX;", ""])

    def layers(self) -> Iterator[str]:
        """One function for each piece: its sizes and options."""
        for piece in self.pieces:
            head = f"static inline fastlstm_{piece.kind} PREFIX_{piece.name}_layer(void) {{"
            made = f"  fastlstm_{piece.kind} layer = fastlstm_{piece.kind}_defaults({', '.join(map(str, piece.sizes))});"
            fields = [f"  layer.{name} = {value};" for name, value in piece.fields.items()]
            yield "\n".join([head, made, *fields, "  return layer;", "}", ""])

    def lay_out(self) -> str:
        """Cuts the memory; its size where memory is NULL."""
        lines = [
            "/* Cuts `memory` into the parts of the model; returns how many bytes they take. memory NULL: only that. */",
            "static inline size_t PREFIX_lay_out(PREFIX *model, unsigned char *memory) {",
            "  size_t at = 0, workspace = FASTLSTM_ALIGNMENT;",
        ]
        lines += ["  size_t bytes;"] if any(piece.kind != "dense" for piece in self.pieces) else []
        for piece, steps in self.in_time():
            arguments = {"dense": None, "conv1d": ""}.get(piece.kind, f", 1, {steps}")
            call = f"fastlstm_{piece.kind}_packed_size_@(&{piece.name})"
            lines += [f"  const fastlstm_{piece.kind} {piece.name} = PREFIX_{piece.name}_layer();"]
            if not self.one_lane:
                lines += [f"  if (memory) model->{piece.name}.packed = memory + at;", f"  at += {call};"]
            elif arguments is None:
                lines.pop()
            if arguments is not None:
                lines += [f"  bytes = fastlstm_{piece.kind}_workspace_size_@(&{piece.name}{arguments});"]
                lines += ["  if (bytes > workspace) workspace = bytes;"]
        parts = [(f"model->{piece.name}_{state}", piece.states) for piece in self.stepped() for state in "hc"]
        parts += [("model->buffer[0]", self.buffer), ("model->buffer[1]", self.buffer)]
        parts += [("model->scratch", self.scratch)] if self.scratch else []
        for name, count in parts:
            lines += [f"  if (memory) {name} = (real *)(void *)(memory + at);", f"  at += {rounded(count * self.size)};"]
        if self.mask:
            lines += ["  if (memory) model->mask = memory + at;", f"  at += {rounded(self.mask)};"]
        lines += ["  if (memory) {", "    model->workspace = memory + at;", "    model->workspace_bytes = workspace;", "  }"]
        return "\n".join([*lines, "  return at + workspace;", "}", ""])

    def init(self) -> str:
        verb = "Takes" if self.one_lane else "Packs the weights into"
        lines = [
            "/* Bytes of memory that init asks for on this instruction set; at most UPPER_MEMORY_BYTES. */",
            "static inline size_t PREFIX_memory_size(void) { return PREFIX_lay_out(NULL, NULL); }",
            "",
            f"/* {verb} `memory` [bytes], aligned to FASTLSTM_ALIGNMENT. It belongs to the caller, and to the model",
            "   until its last use; the states are zeros. A model is used by one thread at a time. */",
            "static inline fastlstm_status PREFIX_init(PREFIX *model, void *memory, size_t bytes) {",
            "  fastlstm_status status = FASTLSTM_OK;",
            "  if (!model || !memory) return FASTLSTM_NULL_POINTER;",
            "  if ((uintptr_t)memory % FASTLSTM_ALIGNMENT) return FASTLSTM_MISALIGNED;",
            "  if (bytes < PREFIX_memory_size()) return FASTLSTM_TOO_SMALL;",
            "  PREFIX_lay_out(model, (unsigned char *)memory);",
        ]
        if self.one_lane:
            lines += ['  if (strcmp(fastlstm_isa(), "one_lane")) return FASTLSTM_WRONG_ISA;']
        for piece in self.pieces:
            if self.one_lane:
                lines += [f"  model->{piece.name}.layer = PREFIX_{piece.name}_layer();"]
                lines += [f"  model->{piece.name}.packed = PREFIX_{piece.name}_packed;"]
                continue
            arrays = ["NULL" if array is None else f"PREFIX_{piece.name}_{name}" for name, array in piece.arrays.items()]
            at, size = f"(void *)(uintptr_t)model->{piece.name}.packed", f"fastlstm_{piece.kind}_packed_size_@(&{piece.name})"
            lines += [
                f"  const fastlstm_{piece.kind} {piece.name} = PREFIX_{piece.name}_layer();",
                f"  status = fastlstm_{piece.kind}_pack_@(&model->{piece.name}, &{piece.name},",
                f"      {', '.join(arrays)},",
                f"      {at}, {size});",
                "  if (status != FASTLSTM_OK) return status;",
            ]
        lines += ["  PREFIX_reset(model);"] if self.steps_reason is None else []
        return "\n".join([*lines, "  return status;", "}", ""])

    def reset(self) -> str:
        lines = ["/* Begins a new sequence: the states are zeros. */", "static inline void PREFIX_reset(PREFIX *model) {"]
        for piece in self.stepped():
            lines += [f"  memset(model->{piece.name}_{s}, 0, {piece.states} * sizeof(real));" for s in "hc"]
        return "\n".join([*lines, *([] if self.stepped() else ["  (void)model;"]), "}", ""])

    def body(self, stepping: bool) -> list[str]:
        """The operations, from x through the two buffers in turn to y."""
        lines: list[str] = []
        working = [operation for operation in self.operations if operation.lines is not None]
        source, masked = "x", False
        for operation in self.operations:
            if operation.lines is not None:
                target = "y" if operation is working[-1] else f"model->buffer[{len(lines) and int(source.endswith('[0]'))}]"
                place = Place(source, target, 1 if stepping else operation.before[0], masked, stepping)
                lines += [f"/* {operation.title} */", *operation.lines(place)]
                source = target
            masked = (masked or operation.makes_mask) and not operation.ends_mask
        if not working:
            lines += [f"memcpy(y, x, {numbers(self.before[1:] if stepping else self.before)} * sizeof(real));"]
        return [f"  {line}" for line in lines]

    def function(self, name: str, comment: list[str], stepping: bool) -> str:
        body = self.body(stepping)
        text = "\n".join(body)
        declared = []
        if "TRY(" in text or "(status = " in text:
            declared += ["  fastlstm_status status;"]
        if "arrays." in text:
            declared += ["  fastlstm_sequences_@ arrays;"]
        if "valid = " in text:
            declared += ["  int valid;"]
            body += [] if "if (valid" in text or "if (!valid" in text else ["  (void)valid;"]
        head = f"static inline fastlstm_status PREFIX_{name}(PREFIX *model, const real *x, real *y) {{"
        check = "  if (!model || !x || !y) return FASTLSTM_NULL_POINTER;"
        return "\n".join([*comment, head, *declared, check, *body, "  return FASTLSTM_OK;", "}", ""])


def short_hex(value: float) -> str:
    """``float.hex`` without the zeros at its end."""
    return re.sub(r"\.?0*p", "p", value.hex())


def shape_text(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def header(text: Text, title: str, names: list[str]) -> str:
    """The whole file."""
    upper = text.prefix.upper()
    before, after = shape_text(text.before), shape_text(text.after)
    table = [
        f" *   {name:<20} {op.title:<24} {shape_text(op.before)} -> {shape_text(op.after)}"
        for name, op in zip(names, text.operations, strict=True)
    ]
    top = [
        f"/* {text.prefix}.h: {title}",
        " *",
        f" * One sample at a time: x {before} -> y {after}, {text.real}.",
        *table,
        f" * {text.prefix}_step: "
        + (f"there is none: {text.steps_reason}." if text.steps_reason else "one time step at a time."),
        " *",
        " * One source file of the program defines FASTLSTM_IMPLEMENTATION before it includes this or <fastlstm/fastlstm.h>.",
        *([" * Weights are packed for one lane: FASTLSTM_ONE_LANE, or a Cortex-M."] if text.one_lane else []),
        " */",
        f"#ifndef {upper}_MODEL_H",
        f"#define {upper}_MODEL_H",
        "",
        "#include <fastlstm/fastlstm.h>",
        "#include <stdint.h>",
        "#include <string.h>",
        "",
    ]
    sizes = [f"#define UPPER_INPUTS {numbers(text.before)} /* numbers of x {before} */"]
    sizes += [f"#define UPPER_OUTPUTS {numbers(text.after)} /* numbers of y {after} */"]
    if text.timed:
        sizes += [f"#define UPPER_STEPS {text.before[0]}"]
    if text.steps_reason is None:
        sizes += [f"#define UPPER_STEP_INPUTS {numbers(text.before[1:])} /* numbers of x of one step */"]
        sizes += [f"#define UPPER_STEP_OUTPUTS {step_outputs(text)} /* numbers of y of one step */"]
    sizes += [
        "/* Enough memory for init on every instruction set, for static arrays; PREFIX_memory_size() says what one needs. */",
        "#if defined(FASTLSTM_ONE_LANE) || (defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M')",
        f"#define UPPER_MEMORY_BYTES {text.memory(0)}",
        "#else",
        f"#define UPPER_MEMORY_BYTES {max(text.memory(vector) for vector in (0, 16, 32, 64))}",
        "#endif",
        "",
    ]
    used = {helper for operation in text.operations for helper in operation.helpers}
    helpers = [HELPERS[name] for name in HELPERS if name in used]
    run = [f"/* x {before} -> y {after}, which may not overlap. States of step are neither used nor changed. */"]
    functions = [text.struct(), *text.layers(), *helpers, text.lay_out()]
    functions += [text.reset()] if text.steps_reason is None else []
    functions += [text.init(), text.function("run", run, False)]
    if text.steps_reason is None:
        now, then = shape_text(text.before[1:]), step_outputs(text)
        step = [
            f"/* x {now} of the next time step -> y [{then}], what run would give behind all steps since init or reset.",
            "   The states are kept in the model. */",
        ]
        functions += [text.function("step", step, True)]
    written = [text.c(function) for function in functions]
    if any(re.search(r"\b(NAN|INFINITY)\b", function) for function in written):
        top.insert(top.index("#include <stdint.h>"), "#include <math.h>")
    return "\n".join([*top, *map(text.c, sizes), *text.arrays(), *written, f"#endif /* {upper}_MODEL_H */", ""])


def step_outputs(text: Text) -> int:
    """Numbers of y of one step: without the time axis, where there still is one."""
    timed = text.timed
    for operation in text.operations:
        timed = timed and not operation.ends_time
    return numbers(text.after[1:]) if timed else numbers(text.after)
