"""Files of weights put together by hand, so that any part of them can lie."""

import io
import json
import pickle
import random
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD_HEADER = {"a.weight": entry([2, 3], 0, 24), "b": entry([4], 24, 40)}
GOOD_SAFETENSORS = safetensors(GOOD_HEADER, np.arange(10, dtype=np.float32).tobytes())


class Member(NamedTuple):
    name: bytes
    data: bytes
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    local_name: bytes | None = None
    offset: int | None = None
    made: int = 0
    attributes: int = 0
    wide: bytes | None = None  # the 64-bit extra field, for sizes that are said to stand there


def zipped(*members: Member, count: int | None = None, start: int | None = None) -> bytes:
    """A zip file as the members say, true or not."""
    body, directory = b"", b""
    for m in members:
        crc = zlib.crc32(m.data) if m.crc is None else m.crc
        size = len(m.data) if m.size is None else m.size
        offset = len(body) if m.offset is None else m.offset
        name = m.name if m.local_name is None else m.local_name
        head = (20, m.flags, m.method, 0, 0, crc, len(m.data), size)
        body += struct.pack("<4s5H3I2H", b"PK\3\4", *head, len(name), 0) + name + m.data
        tail = (len(m.name), 0, 0, 0, 0, m.attributes, offset)
        if m.wide is not None:
            head = (*head[:6], 2**32 - 1, 2**32 - 1)
            tail = (len(m.name), len(m.wide), 0, 0, 0, m.attributes, 2**32 - 1)
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", m.made, *head, *tail) + m.name
        directory += m.wide or b""
    n = len(members) if count is None else count
    at = len(body) if start is None else start
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n & 0xFFFF, n & 0xFFFF, len(directory), at, 0)
    return body + directory + end


def name_of(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def plain(value: Any) -> bytes:
    """A value of builtin types, as opcodes."""
    if isinstance(value, tuple):
        return b"(" + b"".join(map(plain, value)) + b"t"
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 2)
    pickler.fast = True  # no memo
    pickler.dump(value)
    return stream.getvalue()[2:-1]


def joined(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def storage(kind: str = "Float", key: Any = "0", count: Any = 6) -> bytes:
    parts = plain("storage"), name_of("torch", f"{kind}Storage"), plain(key), plain("cpu")
    return joined(*parts, plain(count)) + b"Q"


def tensor(
    of: bytes | None = None, offset: Any = 0, shape: Any = (2, 3), stride: Any = (3, 1)
) -> bytes:
    tail = b"\x89", name_of("collections", "OrderedDict") + b")R"
    arguments = (storage() if of is None else of, *map(plain, (offset, shape, stride)), *tail)
    return name_of("torch._utils", "_rebuild_tensor_v2") + joined(*arguments) + b"R"


def table(*entries: tuple[bytes, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(k + v for k, v in entries) + b"u."


def torch_zip(program: bytes, data: bytes = np.arange(6, dtype=np.float32).tobytes(),
              **lies: Any) -> bytes:  # fmt: skip
    first = Member(b"x/data.pkl", program)
    return zipped(first, Member(b"x/data/0", data)._replace(**lies))


GOOD_PICKLE = table((plain("a"), tensor()))
GOOD_ZIP = torch_zip(GOOD_PICKLE)
GOOD_LEGACY = b"".join((
    bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80024de9032e"),
    pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2),
    GOOD_PICKLE, pickle.dumps(["0"], 2), struct.pack("<q", 6),
    np.arange(6, dtype=np.float32).tobytes(),
))  # fmt: skip


def legacy(program: bytes, keys: Any = ("0",), data: bytes = GOOD_LEGACY[-32:]) -> bytes:
    begin = GOOD_LEGACY.index(GOOD_PICKLE)
    return GOOD_LEGACY[:begin] + program + pickle.dumps(list(keys), 2) + data


def mutated(whole: bytes, rng: random.Random) -> bytes:
    """`whole` with one to four bytes, bits or lengths changed."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(whole))
        cut = rng.randrange(1, 9)
        whole = rng.choice((
            flipped(whole, at), flipped(whole, at),
            whole[:at] + rng.randbytes(1) + whole[at + 1 :],
            whole[:at] + whole[at + cut :], whole[:at] + whole[at : at + cut] + whole[at:],
            whole[:at] + rng.choice((b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f")) + whole[at + 4 :],
        )) or whole[:1]  # fmt: skip
    return whole


def flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
