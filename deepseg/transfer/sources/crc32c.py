"""CRC-32C, the checksum of LevelDB's tables and TensorFlow's checkpoints."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_CASTAGNOLI = 0x82F6_3B78  # the polynomial, lowest power in the highest bit
_ALL_ONES = 0xFFFF_FFFF
_BITS = np.arange(32, dtype=np.uint32)
_PIECE = 1 << 22  # bytes; two copies of a piece fit the cache of most processors


def crc32c(data: NDArray[np.uint8], *, piece_size: int = _PIECE) -> int:
    """CRC-32C of ``data``, (N,) uint8.

    The register of a CRC, started at 0, is linear in the data. So ``data`` is cut into lanes of
    equal length, all lanes are worked off together, four bytes at a step through two tables, and
    neighbours are joined: the first register, moved past as many zeros as the second lane has
    bytes, xor the second.

    Sources: G. Castagnoli et al., IEEE Trans. Commun. 41:883, 1993, doi:10.1109/26.231911 (the
    polynomial); D. V. Sarwate, Commun. ACM 31:1008, 1988, doi:10.1145/63030.63037 (tables);
    M. Adler, ``crc32_combine`` of zlib (moving past zeros with powers of a matrix over GF(2)).

    Args:
        data: Of any length.
        piece_size: Bytes that are worked off together; the result does not depend on it.

    >>> f"{crc32c(np.frombuffer(b'123456789', np.uint8)):08X}"
    'E3069283'
    """
    register = np.array([_ALL_ONES], dtype=np.uint32)
    for start in range(0, len(data), piece_size):
        piece = data[start : start + piece_size]
        register = _past_zeros(register, len(piece)) ^ _remainder(piece)
    return int(register[0]) ^ _ALL_ONES


def masked(crc: int) -> int:
    """``crc`` as LevelDB stores it: checksums of data that holds checksums stay good ones.

    >>> f"{masked(0):08X}", f"{masked(1 << 15):08X}"
    ('A282EAD8', 'A282EAD9')
    """
    return ((crc >> 15 | crc << 17) + 0xA282_EAD8) & _ALL_ONES


def _remainder(piece: NDArray[np.uint8]) -> NDArray[np.uint32]:
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


def _past_zeros(registers: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    """``registers`` after ``count`` further bytes of zero."""
    for exponent in range(count.bit_length()):
        if count >> exponent & 1:
            registers = _applied(_zeros(exponent + 3), registers)
    return registers


@lru_cache(maxsize=64)
def _zeros(exponent: int) -> NDArray[np.uint32]:
    """The matrix that moves a register past 2 ** ``exponent`` bits of zero, (32,), by columns."""
    if exponent == 0:
        return np.array([_CASTAGNOLI, *(1 << bit for bit in range(31))], dtype=np.uint32)
    half = _zeros(exponent - 1)
    return _applied(half, half)


def _applied(matrix: NDArray[np.uint32], registers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """``matrix`` times each of ``registers``, (N,): the xor of the columns that its bits choose."""
    chosen = (registers[:, np.newaxis] >> _BITS & 1) * matrix
    product: NDArray[np.uint32] = np.bitwise_xor.reduce(chosen, axis=1)
    return product


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Registers after four bytes of zero, for every lower and every upper half of a register."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    return _past_zeros(halves, 4), _past_zeros(halves << np.uint32(16), 4)
