"""TFRecord files with random access: where each record lies, and the record, checked.

A record is its length (8 bytes, little-endian), the masked CRC-32C of these, the data, and the
masked CRC-32C of the data. CRC-32C is that of RFC 3720, appendix B.4.
"""

import os
import struct
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt32

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason

HEADER, FOOTER = struct.Struct("<QI"), struct.Struct("<I")
LONGEST = 2**31 - 1  # bytes of a protocol buffer
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
_LANE = 256  # bytes that a lane of the checksum covers; a power of two
_SHORT = 64  # bytes, below which lanes do not pay


def frame(data: bytes) -> bytes:
    """A record as it lies in a file."""
    length = struct.pack("<Q", len(data))
    return length + FOOTER.pack(masked(length)) + data + FOOTER.pack(masked(data))


def offsets(path: Path) -> list[int]:
    """Where each record of a file begins, by one pass over the headers.

    Raises Refusal where a length fails its checksum or reaches beyond the end of the file.
    """
    found: list[int] = []
    try:
        with path.open("rb") as file:
            end, at = os.fstat(file.fileno()).st_size, 0
            while at < end:
                file.seek(at)
                length = _length(file.read(HEADER.size))
                if length is None:
                    raise Refusal(f"{path}: record {len(found)} is damaged: its length is wrong")
                found.append(at)
                at += HEADER.size + length + FOOTER.size
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {reason(error)}") from error
    if at != end:
        raise Refusal(f"{path}: is cut short: {end} of {at} bytes are there")
    return found


def read(path: Path, offset: int) -> bytes:
    """The record that begins at `offset`. Raises ValueError or OSError if it is damaged."""
    with path.open("rb") as file:
        file.seek(offset)
        length = _length(file.read(HEADER.size))
        if length is None or offset + length > os.fstat(file.fileno()).st_size:
            raise ValueError("its length is wrong")
        data, footer = file.read(length), file.read(FOOTER.size)
    if len(footer) != FOOTER.size or FOOTER.unpack(footer)[0] != masked(data):
        raise ValueError("fails its checksum")
    return data


def _length(header: bytes) -> int | None:
    if len(header) != HEADER.size:
        return None
    length, checksum = HEADER.unpack(header)
    return length if checksum == masked(header[:8]) and length <= LONGEST else None


def masked(data: bytes) -> int:
    """The CRC-32C as TFRecord files store it: rotated and shifted by a constant."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC-32C of some bytes.

    The register is linear in its start and in the data, and zeros before the data leave a register
    of zeros alone. So lanes of equal length are run side by side, and then joined two by two: the
    first of two is moved on by the zeros that stand for the second.
    """
    if len(data) < _SHORT:
        register, table = 0xFFFFFFFF, _bytewise()
        for byte in data:
            register = table[(register ^ byte) & 0xFF] ^ register >> 8
        return register ^ 0xFFFFFFFF
    padded = np.zeros(-(-len(data) // _LANE) * _LANE, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[-len(data) :][:4] ^= 0xFF  # the register starts at ones
    registers = _run(padded.reshape(-1, _LANE))
    for zeros in _moves():
        if len(registers) == 1:
            break
        if len(registers) % 2:
            registers = np.concatenate([np.zeros(1, np.uint32), registers])
        registers = _moved(registers[::2], zeros) ^ registers[1::2]
    return int(registers[0]) ^ 0xFFFFFFFF


def _run(lanes: UInt8[np.ndarray, "lanes bytes"]) -> UInt32[np.ndarray, " lanes"]:
    """The register after each lane, begun at 0; two bytes a step."""
    words = np.ascontiguousarray(lanes.view("<u2").T)
    registers = np.zeros(len(lanes), np.uint32)
    low, changed = registers.view(np.uint16)[::2], np.empty_like(registers)
    places = np.empty(len(lanes), np.intp)
    for word in words:
        np.bitwise_xor(low, word, out=places, casting="unsafe")
        np.take(_wordwise(), places, out=changed, mode="clip")
        np.right_shift(registers, 16, out=registers)
        np.bitwise_xor(registers, changed, out=registers)
    return registers


@cache
def _bytewise() -> list[int]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table.tolist()


@cache
def _wordwise() -> UInt32[np.ndarray, "65536"]:
    table, once = np.array(_bytewise(), np.uint32), np.arange(65536, dtype=np.uint32)
    for _ in range(2):
        once = table[once & 0xFF] ^ once >> 8
    return once


@cache
def _moves() -> list[UInt32[np.ndarray, "32"]]:
    """What zeros of 1, 2, 4 … lanes make of each bit of a register."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    moves, zeros = [], _run_zeros(bits)
    for _ in range(32):
        moves.append(zeros)
        zeros = _moved(zeros, zeros)
    return moves


def _run_zeros(registers: UInt32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    table = _wordwise()
    for _ in range(_LANE // 2):
        registers = table[registers & 0xFFFF] ^ registers >> 16
    return registers


def _moved(
    registers: UInt32[np.ndarray, " n"], zeros: UInt32[np.ndarray, "32"]
) -> UInt32[np.ndarray, " n"]:
    bits = registers >> np.arange(32, dtype=np.uint32)[:, None] & np.uint32(1)
    return np.bitwise_xor.reduce(bits * zeros[:, None], axis=0)
