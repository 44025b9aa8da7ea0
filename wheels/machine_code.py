"""Counts vector multiply-adds in machine code: whether the kernels of an instruction set are in a module. Used by contents.py.

In terms of bytes; no disassembler, the encodings alone.
"""

from __future__ import annotations

import re
import struct


def count_neon(code: bytes) -> int:
    """Instructions FMLA on vectors of floats in aarch64 code: all of them are words of 32 bits."""
    words = struct.unpack(f"<{len(code) // 4}I", code[: len(code) // 4 * 4])
    # fmla v, v, v; fmla v, v, v[k]. Bits 30 (length), 22 (size) and the registers are free.
    return sum((word & 0xBFA0FC00) == 0x0E20CC00 or (word & 0xBF80F400) == 0x0F801000 for word in words)


def count_avx2(code: bytes) -> int:
    """VFMADD132/213/231 on ymm registers of floats in x86-64 code: their VEX prefix and opcode, at any place."""
    vex = re.compile(rb"\xc4(?=[\x02\x22\x42\x62\x82\xa2\xc2\xe2](.)[\x98\xa8\xb8])", re.DOTALL)
    return sum(match[1][0] & 0x07 == 0x05 for match in vex.finditer(code))


def count_avx512(code: bytes) -> int:
    """The same on zmm registers: their EVEX prefix and opcode."""
    evex = re.compile(rb"\x62(?=(.)(.)(.)[\x98\xa8\xb8])", re.DOTALL)
    found = ((m[1][0], m[2][0], m[3][0]) for m in evex.finditer(code))
    return sum(a & 0x0F == 0x02 and b & 0x07 == 0x05 and c & 0x60 == 0x40 for a, b, c in found)


COUNTERS = {"neon": count_neon, "avx2": count_avx2, "avx512": count_avx512}
