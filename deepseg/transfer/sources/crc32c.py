"""CRC-32C, the checksum of LevelDB's tables and TensorFlow's checkpoints."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.uint32]

_CASTAGNOLI = 0x82F6_3B78  # the polynomial, lowest power in the highest bit
_ALL_ONES = 0xFFFF_FFFF
_BITS = np.arange(32, dtype=np.uint32)
_PIECE = 1 << 22  # bytes; two copies of a piece fit the cache of most processors


def crc32c(data: Bytes) -> int:
    """CRC-32C of ``data``, (N,) uint8.

    The register of a CRC, started at 0, is linear in the data. So ``data`` is cut into lanes of
    equal length, all lanes are worked off together, four bytes at a step through two tables, and
    neighbours are joined: the first register, moved past as many zeros as the second lane has
    bytes, xor the second.

    Sources: G. Castagnoli et al., IEEE Trans. Commun. 41:883, 1993, doi:10.1109/26.231911 (the
    polynomial); D. V. Sarwate, Commun. ACM 31:1008, 1988, doi:10.1145/63030.63037 (tables);
    M. Adler, ``crc32_combine`` of zlib (moving past zeros with powers of a matrix over GF(2)).
    """
    register = np.array([_ALL_ONES], dtype=np.uint32)
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        register = _past_zeros(register, len(piece)) ^ _remainder(piece)
    return int(register[0]) ^ _ALL_ONES


def masked(crc: int) -> int:
    """As LevelDB stores it, so that a checksum of data with checksums inside stays a good one."""
    return ((crc >> 15 | crc << 17) + 0xA282_EAD8) & _ALL_ONES


def _remainder(piece: Bytes) -> Words:
    """Register after ``piece``, (1,), started at 0; zeros in front do not change it."""
    length = max(4, 1 << (len(piece).bit_length() // 2))  # about as many lanes as bytes in a lane
    lanes = -(-len(piece) // length)
    padded = np.zeros(lanes * length, dtype=np.uint8)
    padded[len(padded) - len(piece) :] = piece
    steps = np.ascontiguousarray(padded.view("<u4").reshape(lanes, length // 4).T)
    low, high = _tables()
    registers = np.zeros(lanes, dtype=np.uint32)
    for words in steps:
        mixed = registers ^ words
        registers = low[mixed & 0xFFFF] ^ high[mixed >> 16]
    while len(registers) > 1:
        if len(registers) % 2:
            registers = np.concatenate([np.zeros(1, dtype=np.uint32), registers])
        registers = _past_zeros(registers[0::2], length) ^ registers[1::2]
        length *= 2
    return registers


def _past_zeros(registers: Words, count: int) -> Words:
    """``registers`` after ``count`` further bytes of zero."""
    for exponent in range(count.bit_length()):
        if count >> exponent & 1:
            registers = _applied(_zeros(exponent + 3), registers)
    return registers


@lru_cache(maxsize=64)
def _zeros(exponent: int) -> Words:
    """The matrix that moves a register past 2 ** ``exponent`` bits of zero, (32,), by columns."""
    if exponent == 0:
        return np.array([_CASTAGNOLI, *(1 << bit for bit in range(31))], dtype=np.uint32)
    half = _zeros(exponent - 1)
    return _applied(half, half)


def _applied(matrix: Words, registers: Words) -> Words:
    """``matrix`` times each of ``registers``, (N,): the xor of the columns that its bits choose."""
    chosen = (registers[:, np.newaxis] >> _BITS & 1) * matrix
    product: Words = np.bitwise_xor.reduce(chosen, axis=1)
    return product


@lru_cache(maxsize=1)
def _tables() -> tuple[Words, Words]:
    """Registers after four bytes of zero, for every lower and every upper half of a register."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    return _past_zeros(halves, 4), _past_zeros(halves << np.uint32(16), 4)
