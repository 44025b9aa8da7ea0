"""The ``data.pkl`` of a PyTorch checkpoint -> dicts, lists, tuples, numbers, texts and what the caller's globals make.

A small stack machine for the opcodes that ``torch.save`` writes (pickle protocols 2 to 5), and no others. Nothing is imported,
looked up or called by a name in the file: a global is one of the caller's ``Known`` or is refused. Used by ``torch_file``.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Any

# A million steps take about a second and 100 MB at the most; the state of a model takes some thirty for each of its tensors.
MAX_STEPS = 1_000_000
MAX_BYTES = 64 * 2**20
MAX_INTEGER = 64  # bytes of one integer
_MAX_NAME = 1000

# Opcodes of the pickle format that are refused, by the names that ``pickletools`` gives them.
_REFUSED = {
    0x32: "DUP", 0x42: "BINBYTES", 0x43: "SHORT_BINBYTES", 0x46: "FLOAT", 0x49: "INT", 0x4C: "LONG",
    0x50: "PERSID", 0x53: "STRING", 0x54: "BINSTRING", 0x55: "SHORT_BINSTRING", 0x56: "UNICODE", 0x64: "DICT", 0x67: "GET",
    0x69: "INST", 0x6C: "LIST", 0x6F: "OBJ", 0x70: "PUT", 0x81: "NEWOBJ", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4",
    0x8E: "BINBYTES8", 0x8F: "EMPTY_SET", 0x90: "ADDITEMS", 0x91: "FROZENSET", 0x92: "NEWOBJ_EX", 0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Known:
    """A global that a file may name. ``make``: what a call of it with these arguments is; None where it is never called."""

    name: str
    make: Callable[..., Any] | None = None
    value: Any = None  # what stands for it where it is a value itself (torch.float32), which no other global may be


class Buildable:
    """What a ``make`` may return that takes a state afterwards."""

    def build(self, state: Any) -> None:
        raise NotImplementedError


def unpickle(data: bytes, find: Callable[[str], Known], persistent: Callable[[Any], Any]) -> Any:
    """The object that ``data`` describes.

    ``find``: the global of a "module.name", or a ValueError; ``persistent``: makes an object of a persistent id. ValueError,
    which does not name the file, for damaged data, for every other opcode, and for more than ``MAX_STEPS`` steps.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"its pickle has {len(data)} bytes, at most {MAX_BYTES} are accepted")
    machine = _Machine(data, find, persistent)
    for _ in range(MAX_STEPS):
        opcode = machine.byte()
        if opcode == _STOP:
            return machine.result()
        step = _STEPS.get(opcode)
        if step is None:
            name = _REFUSED.get(opcode, "that no pickle has")
            raise ValueError(f"refuses the opcode {name} ({opcode:#04x}) at byte {machine.place - 1} of its pickle")
        step(machine)
    raise ValueError(f"its pickle takes more than {MAX_STEPS} steps")


class _Machine:
    """The state of a run: where it reads, the stack, the stacks below marks, and the memo."""

    def __init__(self, data: bytes, find: Callable[[str], Known], persistent: Callable[[Any], Any]):
        self.data, self.find, self.persistent = data, find, persistent
        self.place = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    # -- reading --------------------------------------------------------------------------------------------------
    def byte(self) -> int:
        if self.place >= len(self.data):
            raise ValueError("its pickle is truncated: it ends without STOP")
        self.place += 1
        return self.data[self.place - 1]

    def take(self, count: int) -> bytes:
        end = self.place + count
        if end > len(self.data):
            raise ValueError(f"its pickle is truncated: {count} bytes are wanted at byte {self.place} of {len(self.data)}")
        taken, self.place = self.data[self.place : end], end
        return taken

    def number(self, size: int) -> int:
        """An unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int) -> str:
        """A text behind its length, which takes ``size`` bytes."""
        start = self.place
        try:
            return str(self.take(self.number(size)), "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"its pickle holds a text that is not UTF-8, at byte {start}") from error

    def line(self) -> str:
        """A name that ends with a line feed."""
        end = self.data.find(b"\n", self.place, self.place + _MAX_NAME)
        if end < 0:
            raise ValueError(f"its pickle is damaged: no name ends behind byte {self.place}")
        return self.take(end + 1 - self.place)[:-1].decode("utf-8", "backslashreplace")

    # -- the stack ------------------------------------------------------------------------------------------------
    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError(f"its pickle is damaged: nothing is on the stack at byte {self.place}")
        return self.stack.pop()

    def top(self, kind: type, what: str) -> Any:
        """What is on top, which must be a dict or a list."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            found = type(self.stack[-1]).__name__ if self.stack else "nothing"
            raise ValueError(f"its pickle is damaged: {what} at byte {self.place} finds {found} on the stack")
        return self.stack[-1]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """All that was put on the stack since the last mark."""
        if not self.below:
            raise ValueError(f"its pickle is damaged: no mark is set at byte {self.place}")
        items, self.stack = self.stack, self.below.pop()
        return items

    def last(self, count: int) -> None:
        """Makes a tuple of the last ``count``."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    # -- the memo -------------------------------------------------------------------------------------------------
    def put(self, index: int) -> None:
        if not self.stack:
            raise ValueError(f"its pickle is damaged: nothing is on the stack at byte {self.place}")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"its pickle is damaged: entry {index} of the memo is used before it is set, at byte {self.place}")
        self.push(self.memo[index])

    # -- what is put together ----------------------------------------------------------------------------------------
    def fill(self, items: list[Any]) -> None:
        """Puts key, value, key, value … into the dict on top."""
        target = self.top(dict, "SETITEMS")
        if len(items) % 2:
            raise ValueError(f"its pickle is damaged: a key without a value at byte {self.place}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Tuples could nest within each other so that a single hash takes for ever; long integers can all have the same one.
            if not isinstance(key, str | int | float | None) or (isinstance(key, int) and abs(key) >= 2**63):
                raise ValueError(f"refuses a key of type {type(key).__name__} in a dict, at byte {self.place}")
            target[key] = self.value(value)

    def append(self, items: list[Any]) -> None:
        self.top(list, "APPENDS").extend(self.value(item) for item in items)

    def value(self, value: Any) -> Any:
        if isinstance(value, Known | Buildable):
            raise ValueError(f"refuses the global {getattr(value, 'name', 'numpy.dtype')!r} as a value")
        return value

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError(f"its pickle is damaged: the name of a global is no text, at byte {self.place}")
        self.name(f"{module}.{name}")

    def name(self, name: str) -> None:
        found = self.find(name)
        self.push(found if found.value is None else found.value)

    def reduce(self) -> None:
        """Calls one of the caller's ``make``."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Known) or function.make is None or not isinstance(arguments, tuple):
            name = function.name if isinstance(function, Known) else type(function).__name__
            raise ValueError(f"refuses to call {name!r:.200}, at byte {self.place}")
        self.push(function.make(*arguments))

    def build(self) -> None:
        """The attributes of an OrderedDict (``_metadata`` of a state dict), which are let go; the state of a Buildable."""
        state = self.pop()
        if self.stack and isinstance(self.stack[-1], Buildable):
            self.stack[-1].build(state)
            return
        if not isinstance(state, dict):
            raise ValueError(f"refuses attributes in a {type(state).__name__}, at byte {self.place}")
        self.top(dict, "BUILD")

    def integer(self, size: int) -> None:
        """A signed integer behind its length."""
        length = self.number(size)
        if length > MAX_INTEGER:
            raise ValueError(f"its pickle holds an integer of {length} bytes, at most {MAX_INTEGER} are accepted")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def protocol(self) -> None:
        version = self.byte()
        if not 2 <= version <= 5:
            raise ValueError(f"its pickle has protocol {version}, known are 2 to 5")

    def result(self) -> Any:
        if len(self.stack) != 1 or self.below:
            raise ValueError("its pickle is damaged: it ends with open parts")
        return self.value(self.stack[0])


_STOP = 0x2E
_STEPS: dict[int, Callable[[_Machine], Any]] = {
    # Where it begins, and frames, which say no more than how much to read at once.
    0x80: _Machine.protocol,
    0x95: lambda m: m.take(8),
    # Constants.
    0x4E: lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    0x4A: lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    0x4B: lambda m: m.push(m.byte()),
    0x4D: lambda m: m.push(m.number(2)),
    0x8A: lambda m: m.integer(1),
    0x8B: lambda m: m.integer(4),
    0x47: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    0x58: lambda m: m.push(m.text(4)),
    0x8C: lambda m: m.push(m.text(1)),
    0x8D: lambda m: m.push(m.text(8)),
    # Lists, tuples, dicts.
    0x5D: lambda m: m.push([]),
    0x61: lambda m: m.append([m.pop()]),
    0x65: lambda m: m.append(m.since_mark()),
    0x29: lambda m: m.push(()),
    0x74: lambda m: m.push(tuple(m.since_mark())),
    0x85: lambda m: m.last(1),
    0x86: lambda m: m.last(2),
    0x87: lambda m: m.last(3),
    0x7D: lambda m: m.push({}),
    0x73: lambda m: m.fill([m.pop(), m.pop()][::-1]),
    0x75: lambda m: m.fill(m.since_mark()),
    # Stack and memo.
    0x28: _Machine.mark,
    0x30: _Machine.pop,
    0x31: _Machine.since_mark,
    0x71: lambda m: m.put(m.byte()),
    0x72: lambda m: m.put(m.number(4)),
    0x94: lambda m: m.put(len(m.memo)),
    0x68: lambda m: m.get(m.byte()),
    0x6A: lambda m: m.get(m.number(4)),
    # Globals, calls of them, persistent ids.
    0x63: lambda m: m.name(f"{m.line()}.{m.line()}"),
    0x93: _Machine.stack_global,
    0x52: _Machine.reduce,
    0x62: _Machine.build,
    0x51: lambda m: m.push(m.persistent(m.pop())),
}
