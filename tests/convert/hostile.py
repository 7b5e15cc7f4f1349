"""Malformed and hostile files of weights, made by hand: `cases` writes them into a folder.

Each case is a path to open and words of the line that should refuse it. The payloads of the
pickles make the file MARKER, which must never appear.
"""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from forge import (
    GOOD_HEADER,
    GOOD_LEGACY,
    GOOD_PICKLE,
    GOOD_SAFETENSORS,
    GOOD_ZIP,
    Member,
    entry,
    flipped,
    joined,
    legacy,
    name_of,
    plain,
    safetensors,
    storage,
    table,
    tensor,
    torch_zip,
    zipped,
)

MARKER = "code-ran"


class Case(NamedTuple):
    """A file, or the folder of a component, and words of the refusal that it should meet."""

    name: str
    path: str
    words: str


def cases(folder: Path, seed: int) -> Iterator[Case]:
    """Write all files into `folder`."""
    rng = random.Random(seed)
    for group in (_headers, _pickles, _payloads, _zips, _cuts, _others):
        for name, content, words in group(folder, rng):
            path = folder / f"{group.__name__[1:]}-{name}"
            path.write_bytes(content)
            yield Case(path.name, str(path), words)
    yield from _indices(folder)
    yield from _odd_paths(folder)


Group = Iterator[tuple[str, bytes, str]]


def _headers(_: Path, rng: random.Random) -> Group:
    def one(**change: Any) -> bytes:
        return safetensors({"a": {**entry([2, 3], 0, 24), **change}}, bytes(24))

    yield "length-2-63", safetensors(b"{}", length=2**63), "header would have"
    yield "length-negative", safetensors(b"{}", length=2**64 - 1), "header would have"
    yield "length-past-end", safetensors(b"{}", length=3), "cut short"
    yield "length-one-short", safetensors(b"{}", length=1), "header"
    yield "header-11-MB", safetensors(b"{" + b" " * 11_000_000 + b"}"), "header would have"
    many = {f"t{i}": entry([1], 4 * i, 4 * i + 4) for i in range(20_001)}
    yield "20001-tensors", safetensors(many, bytes(4 * 20_001)), "more than 20000 tensors"
    pairs = b"{" + b",".join(b'"%d":{}' % i for i in range(700_000)) + b"}"
    yield "900000-entries", safetensors(pairs), "more than 20000 tensors"
    yield "lists-in-lists", safetensors(b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}"), "header"
    yield "million-lists", safetensors(b'{"a":[' + b"[]," * 3_000_000 + b"0]}"), "more than"
    yield "million-numbers", safetensors(b'{"a":[' + b"1e5," * 2_400_000 + b"0]}"), "described by"
    yield "huge-integer", safetensors(b'{"a":' + b"9" * 5_000_000 + b"}"), "header"
    yield "not-utf-8", safetensors(b'{"\xff\xfe":{}}'), "header"
    yield "nan", safetensors(b'{"a":NaN}'), "NaN is no JSON"
    yield "text-after", safetensors(b'{"a":{}}}'), "Extra data"
    yield "empty", safetensors({}), "no tensors"
    yield "metadata-only", safetensors({"__metadata__": {"a": "b"}}), "no tensors"
    yield "metadata-number", safetensors({"__metadata__": {"a": 1}, **GOOD_HEADER}), "metadata"
    yield "metadata-list", safetensors({"__metadata__": [1], **GOOD_HEADER}), "metadata"
    text = json.dumps(entry([2, 3], 0, 24)).encode()
    twice = b'{"a":' + text + b',"a":' + text + b"}"
    yield "duplicate-key", safetensors(twice, bytes(24)), "twice"
    twice = b'{"a":' + text[:-1] + b',"shape":[6]}}'
    yield "duplicate-field", safetensors(twice, bytes(24)), "twice"
    yield "entry-list", safetensors({"a": [1]}), "described by"
    yield "entry-field", one(more=1), "described by"
    for number, dtype in enumerate(("F33", "f32", "C64", "F4", "", None, 5, ["F32"], "O", "<f4")):
        yield f"dtype-{number}", one(dtype=dtype), "dtype"
    yield "shape-none", one(shape=None), "shape"
    yield "shape-float", one(shape=[2.0, 3]), "shape"
    yield "shape-bool", one(shape=[True, 6]), "shape"
    yield "shape-text", one(shape="23"), "shape"
    yield "shape-negative", one(shape=[-2, -3]), "at least 1"
    yield "shape-zero", safetensors({"a": entry([0], 0, 0)}), "at least 1"
    yield "shape-rank", one(shape=[1] * 7 + [2, 3]), "9 dimensions"
    yield "shape-overflow", one(shape=[2**33, 2**33]), "over the limit"
    yield "shape-wraps", one(shape=[2**62, 4, 3]), "over the limit"
    yield "shape-digits", one(shape=[10**4000]), "over the limit"
    yield "shape-larger", one(shape=[2, 4]), "needs 32 bytes"
    yield "offsets-negative", one(data_offsets=[-24, 0]), "overlaps"
    yield "offsets-reversed", one(data_offsets=[24, 0]), "needs 24 bytes"
    yield "offsets-one", one(data_offsets=[24]), "offsets"
    yield "offsets-float", one(data_offsets=[0, 24.0]), "offsets"
    yield "offsets-huge", one(data_offsets=[2**70, 2**70 + 24]), "hole"
    both = {"a": entry([6], 0, 24), "b": entry([6], 20, 44)}
    yield "overlap", safetensors(both, bytes(44)), "overlaps"
    yield "same", safetensors({**both, "b": entry([6], 0, 24)}, bytes(24)), "overlaps"
    yield "hole", safetensors({**both, "b": entry([6], 28, 52)}, bytes(52)), "hole"
    yield "hole-first", safetensors({"a": entry([6], 4, 28)}, bytes(28)), "hole"
    yield "trailing", GOOD_SAFETENSORS + b"\0", "no tensor at its end"
    yield "bool", safetensors({"a": entry([2], 0, 2, "BOOL")}, b"\1\2"), "other than 0 and 1"
    names = ("", "a\nb", "a\0b", "../../etc/x", "a\x1b[2J", "\u202e", "\ud800", "n" * 600)
    for number, name in enumerate(names):
        yield f"name-{number}", safetensors({name: entry([6], 0, 24)}, bytes(24)), "name"
    yield "noise", safetensors(b"{" + rng.randbytes(4000)), "header"


def _pickles(_: Path, rng: random.Random) -> Group:
    def one(value: bytes) -> bytes:
        return torch_zip(table((plain("a"), value)))

    yield "offset", one(tensor(offset=1)), "reaches out"
    yield "stride", one(tensor(stride=(4, 1))), "reaches out"
    yield "stride-huge", one(tensor(stride=(2**61, 1))), "reaches out"
    yield "stride-zero", one(tensor(shape=(2**31,), stride=(0,))), "repeats"
    yield "stride-negative", one(tensor(offset=5, stride=(-3, -1))), "negative or huge"
    yield "offset-negative", one(tensor(offset=-1)), "negative or huge"
    yield "shape-negative", one(tensor(shape=(-2, -3))), "negative or huge"
    yield "shape-zero", one(tensor(shape=(0, 3))), "at least 1"
    yield "shape-huge", one(tensor(shape=(2**40, 2**40), stride=(0, 0))), "over the limit"
    yield "shape-integer", one(tensor(shape=(10**4000, 1))), "negative or huge"
    yield "shape-text", one(tensor(shape=("2", "3"))), "made of a storage and integers"
    yield "shape-none", one(tensor(shape=None)), "malformed"
    yield "shape-strides", one(tensor(stride=(1,))), "negative or huge"
    yield "rank", one(tensor(shape=(1,) * 30, stride=(1,) * 30)), "30 dimensions"
    yield "storage-none", one(tensor(b"N")), "made of a storage"
    yield "storage-larger", one(tensor(storage(count=7))), "should have 7 numbers"
    yield "storage-smaller", one(tensor(storage(count=3))), "should have 3 numbers"
    yield "storage-negative", one(tensor(storage(count=-6))), "a size that no"
    yield "storage-missing", one(tensor(storage(key="1"))), "missing"
    yield "storage-path", one(tensor(storage(key="../data.pkl"))), "are numbered"
    yield "storage-integer", one(tensor(storage(key=0))), "are numbered"
    yield "storage-complex", one(tensor(storage("ComplexFloat"))), "torch.ComplexFloatStorage"
    yield "storage-quantised", one(tensor(storage("QInt8"))), "torch.QInt8Storage"
    two = (plain("a"), tensor()), (plain("b"), tensor(storage("Int")))
    yield "storage-two-types", torch_zip(table(*two)), "in two ways"
    yield "storage-text", torch_zip(b"\x80\x02}X\1\0\0\0aPstorage\ns."), "refers to something"
    yield "name-integer", torch_zip(table((plain(3), tensor()))), "name is no text"
    yield "name-path", torch_zip(table((plain("../x"), tensor()))), "is named"
    yield "name-control", torch_zip(table((plain("a\nb"), tensor()))), "is named"
    yield "name-surrogate", torch_zip(table((b"X\3\0\0\0\xed\xa0\x80", tensor()))), "is named"
    yield "tensor-alone", torch_zip(b"\x80\x02" + tensor() + b"."), "no table"
    yield "nothing", torch_zip(b"\x80\x02}."), "one entry with them"
    inner = table((plain("a"), tensor()))[2:-1]
    two = (plain("ema"), inner), (plain("model"), inner)
    yield "two-tables", torch_zip(table(*two)), "ema, model"
    loop = b"\x80\x02}q\0X\1\0\0\0ah\0s."
    yield "holds-itself", torch_zip(loop), "one entry with them"
    yield (
        "parameter",
        one(name_of("torch._utils", "_rebuild_parameter") + joined(plain(1)) + b"R"),
        "parameter",
    )
    yield "memo-bomb", torch_zip(b"\x80\x02}r\xff\xff\xff\x7f."), "memory"
    yield "bytes-bomb", torch_zip(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"."), "memory"
    yield "frame-bomb", torch_zip(b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"."), "malformed"
    yield "long-bomb", torch_zip(b"\x80\x02\x8b\xff\xff\xff\x7f."), "malformed"
    yield "lists", torch_zip(b"\x80\x02" + b"]" * 9_900_000 + b"."), "memory"
    yield "tuples", torch_zip(b"\x80\x02})" + b"\x85" * 9_000_000 + b"Ns."), ""
    mersenne = b"".join(plain(i * (2**61 - 1)) + b"N" for i in range(60_000))
    yield "hash-collisions", torch_zip(b"\x80\x02}(" + mersenne + b"u."), "of computing"
    laughs = b"\x80\x02]" + b"".join(
        b"q%c](" % (i % 256) + b"h%c" % (i % 256) * 9 + b"e" for i in range(99)
    )
    yield "laughs", torch_zip(laughs + b"."), "no table"
    yield "protocol-9", torch_zip(b"\x80\x09}."), "malformed"
    yield "no-stop", torch_zip(GOOD_PICKLE[:-1]), "malformed"
    yield "underflow", torch_zip(b"\x80\x02}us."), "malformed"
    yield "pop", torch_zip(b"\x80\x020000."), "malformed"
    yield "noise", torch_zip(b"\x80\x02" + rng.randbytes(3000)), ""
    yield "11-MB", torch_zip(GOOD_PICKLE + bytes(11_000_000)), "over 10000000"
    rows = [(plain(f"t{i}"), tensor()) for i in range(20_001)]
    yield "20001-tensors", torch_zip(table(*rows)), "20001 tensors"
    yield "legacy-keys", legacy(GOOD_PICKLE, ("0", "1")), "other storages"
    yield "legacy-keys-list", legacy(GOOD_PICKLE, ([],)), "malformed"
    yield "legacy-count", legacy(GOOD_PICKLE, data=struct.pack("<q", 7) + bytes(28)), "storage 0"
    yield "legacy-negative", legacy(GOOD_PICKLE, data=struct.pack("<q", -6) + bytes(24)), "storage"
    yield "legacy-trailing", GOOD_LEGACY + b"\0", "appended"
    yield "legacy-big-endian", GOOD_LEGACY.replace(b"\x88", b"\x89", 1), "big-endian"
    yield "legacy-protocol", GOOD_LEGACY.replace(b"M\xe9\3", b"M\xe8\3", 1), "bare pickle"


def _payloads(folder: Path, _: random.Random) -> Group:
    """Pickles that would run code, each in one of the forms that a pickle comes in."""
    marker = str(folder / MARKER)
    shell, python = f"touch {marker}", f"open({marker!r}, 'w').close()"
    wrap: tuple[Callable[[bytes], bytes], ...] = (
        lambda call: torch_zip(table((plain("a"), call), (plain("b"), tensor()))),
        lambda call: legacy(table((plain("a"), call))),
        lambda call: torch_zip(b"\x80\x02" + call + b"."),
        lambda call: torch_zip(table((plain("b"), tensor()))[:-1] + call + b"."),
    )
    calls: dict[Any, str] = {
        (shell,): "os:system posix:system nt:system os:popen commands:getoutput",
        (("touch", marker),): "subprocess:Popen subprocess:call subprocess:check_output pty:spawn",
        ("touch", "touch", marker): "os:execlp os:spawnlp posix:execv os:posix_spawn",
        (python,): "builtins:exec __builtin__:exec builtins:eval __builtin__:eval runpy:_run_code"
        " timeit:timeit profile:run bdb:Bdb.run pdb:run trace:Trace.run doctest:debug_script"
        " cProfile:runctx asyncio:run numpy.testing._private.utils:runstring numpy.f2py:compile"
        " torch.jit.unsupported_tensor_ops:execWrapper builtins:compile code:interact",
        (marker, "w"): "builtins:open io:open _io:FileIO pathlib:Path.touch os:open os:mkdir"
        " shelve:open shutil:rmtree tempfile:mkstemp sqlite3:connect logging:FileHandler",
        (marker,): "runpy:run_path torch:load torch.hub:load torch.serialization:load numpy:load"
        " torch._inductor.codecache:compile_file linecache:getlines os:remove ctypes:CDLL",
        ("x",): "builtins:getattr builtins:__import__ importlib:import_module operator:attrgetter"
        " operator:methodcaller functools:partial collections:namedtuple pickle:loads marshal:loads"
        " torch.storage:_load_from_bytes torch.fx.graph_module:reduce_graph_module"
        " torch.utils.data:DataLoader types:CodeType types:FunctionType webbrowser:open"
        " urllib.request:urlopen socket:create_connection",
        (): "sys:modules __main__:x collections:OrderedDict.__init__ unpickle:main"
        " collections:OrderedDict.fromkeys torch._utils:_rebuild_tensor_v2.__globals__"
        " torch._utils:_rebuild_device_tensor_from_numpy _codecs:encode.__self__ antigravity:x"
        " vdm_jax.convert.read.unpickle:main ensurepip:main pip._internal:main"
        " сollections:OrderedDict collections.:OrderedDict",
    }
    flat = [(path, args) for args, paths in calls.items() for path in paths.split()]
    for number, (path, arguments) in enumerate(flat):
        module, name = path.split(":")
        call = name_of(module, name) + plain(arguments) + b"R"
        yield path.replace(":", "."), wrap[number % 4](call), f"asks for {module}.{name}"
    instance = b"(" + plain(shell) + b"ios\nsystem\n"
    yield "inst", wrap[0](instance), "asks for os.system"
    yield "obj", wrap[1](b"(" + name_of("os", "system") + plain(shell) + b"o"), "asks for os.system"
    made = name_of("os", "system") + plain((shell,)) + b"\x81"
    yield "newobj", wrap[2](made), "asks for os.system"
    stacked = b"\x8c\2os\x8c\6system\x93" + plain((shell,)) + b"R"
    yield "stack-global", wrap[3](stacked), "asks for os.system"
    for code in (b"\x82\1", b"\x83\1\0", b"\x84\1\0\0\0"):
        yield f"extension-{code[0]}", wrap[0](code), "malformed"
    change = joined(b"N", b"}" + plain("__init__") + plain(1) + b"s") + b"b"
    for number, (module, name) in enumerate((("collections", "OrderedDict"), ("torch", "device"),
                                             ("torch", "FloatStorage"))):  # fmt: skip
        yield f"build-{number}", wrap[2](name_of(module, name) + change), ""
    yield "build-code", wrap[2](
        name_of("torch._utils", "_rebuild_tensor_v2")
        + joined(b"N", b"}" + plain("__defaults__") + b")" + b"s") + b"b"
    ), "tries what no reading of weights needs"  # fmt: skip
    yield "bare-0", b"cos\nsystem\n(V" + shell.encode() + b"\ntR.", "no file of weights"
    yield "bare-4", pickle.dumps({"a": np.zeros(3)}, 4), "bare pickle"
    yield "after-magic", GOOD_LEGACY[:15] + wrap[2](made)[40:], ""


def _zips(_: Path, rng: random.Random) -> Group:
    good = Member(b"x/data.pkl", GOOD_PICKLE), Member(b"x/data/0", GOOD_ZIP[-200:-176])
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x/data.pkl", GOOD_PICKLE)
        packed.writestr("x/data/0", bytes(300_000_000))
    yield "bomb", bomb.getvalue(), "compressed"
    for method in (8, 9, 12, 14, 93, 99, 0xFFFF):
        yield f"method-{method}", torch_zip(GOOD_PICKLE, method=method), "compressed"
    for bit in (0, 5, 6, 13):
        yield f"flag-{bit}", torch_zip(GOOD_PICKLE, flags=1 << bit), "encrypted"
    yield "crc-data", torch_zip(GOOD_PICKLE, crc=0), "is damaged"
    yield "crc-pickle", zipped(good[0]._replace(crc=1), good[1]), "is damaged"
    names = [
        "../x",
        "/etc/passwd",
        "x/../y",
        "x\\y",
        "C:/x",
        "x//y",
        "x/",
        "./x",
        "x/\x00",
        "x/..",
        "x\x1b",
        "é\u202e",
    ]
    for number, name in enumerate((b"", b"\xff", b"x\n", *map(str.encode, names))):
        yield f"name-{number}", zipped(*good, Member(name, b"")), "odd name"
    yield "twice", zipped(*good, good[1]), "two members"
    yield "twice-overlapping", zipped(*good, good[1]._replace(offset=0)), ""
    yield "two-pickles", zipped(*good, Member(b"y/data.pkl", GOOD_PICKLE)), "with 2 data.pkl"
    yield "no-pickle", zipped(good[1]), "with 0 data.pkl"
    yield "no-storage", zipped(good[0]), "missing"
    yield "script", zipped(*good, Member(b"x/constants.pkl", b"")), "TorchScript"
    yield "byteorder", zipped(*good, Member(b"x/byteorder", b"big")), "big-endian"
    yield "symlink", torch_zip(GOOD_PICKLE, made=3 << 8, attributes=0o120777 << 16), "a link"
    yield "sizes", torch_zip(GOOD_PICKLE, size=30), "two sizes"
    for name, wide in (("none", b""), ("short", struct.pack("<2HQ", 1, 8, 24)),
                       ("cut", struct.pack("<2H", 1, 24))):  # fmt: skip
        yield f"wide-{name}", torch_zip(GOOD_PICKLE, wide=wide), "lacks its 64-bit sizes"
    far = struct.pack("<2H3Q", 1, 24, 24, 24, 2**63)
    yield "wide-far", torch_zip(GOOD_PICKLE, wide=far), "cut short"
    yield "local-name", torch_zip(GOOD_PICKLE, local_name=b"x/data/1"), "not where"
    yield "same-bytes", torch_zip(GOOD_PICKLE, offset=0), ""
    yield "offset-past-end", torch_zip(GOOD_PICKLE, offset=2**31), "cut short"
    yield "count-more", zipped(*good, count=3), "breaks off"
    yield "count-fewer", zipped(*good, count=1), ""
    yield "count-none", zipped(*good, count=0), "without members"
    yield "count-many", zipped(*good, count=60_000), "60000 members"
    yield "directory-elsewhere", zipped(*good, start=7), "not where"
    yield "prefix", b"PK\3\4" + GOOD_ZIP, "not where"
    yield "appended", GOOD_ZIP + b"\0", "appended"
    yield "comment", GOOD_ZIP[:-2] + b"\5\0hello", "appended"
    yield "two-zips", GOOD_ZIP + GOOD_ZIP, ""
    yield "ordinary", zipped(Member(b"readme.txt", b"hello")), "with 0 data.pkl"
    yield "end64-lies", GOOD_ZIP[:-6] + b"\xff" * 4 + b"\0\0", "not where"
    end = len(GOOD_ZIP) - 22
    yield "noise", GOOD_ZIP[:60] + rng.randbytes(end - 60) + GOOD_ZIP[end:], ""
    yield "flipped", flipped(GOOD_ZIP, GOOD_ZIP.index(b"PK\1\2") - 5), "is damaged"


def _cuts(_: Path, rng: random.Random) -> Group:
    for kind, whole in (("st", GOOD_SAFETENSORS), ("zip", GOOD_ZIP), ("old", GOOD_LEGACY)):
        for length in [*rng.sample(range(1, len(whole)), 12), len(whole) - 1]:
            yield f"{kind}-{length}", whole[:length], ""


def _others(_: Path, rng: random.Random) -> Group:
    yield "empty", b"", "is empty"
    yield "zeros", bytes(5000), "zeros"
    yield "noise", rng.randbytes(5000), ""
    yield "page", b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"
    yield "xml", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:b2652c23\nsize 9559625980\n"
    yield "pointer", pointer, "git-lfs pointer"
    yield "tar", bytes(100) + b"x" * 157 + b"ustar\0" + bytes(300), "tar archive"
    yield "gzip", b"\x1f\x8b\x08" + bytes(50), "gzip"
    yield "gguf", b"GGUF\3\0\0\0" + bytes(50), "GGUF"
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"
    yield "numpy", b"\x93NUMPY\1\0" + bytes(50), "numpy array"
    yield "no-members", b"PK\5\6" + bytes(18), "empty zip"
    yield "picture", b"\x89PNG\r\n\x1a\n" + bytes(50), "no file of weights"
    yield "json", b'{"weight_map": {}}', "no file of weights"


def _indices(folder: Path) -> Iterator[Case]:
    (folder / "part.safetensors").write_bytes(GOOD_SAFETENSORS)
    home = {"a.weight": "part.safetensors", "b": "part.safetensors"}
    texts = {
        "not-json": ("{", "its index"),
        "list": ("[1]", "begin with {"),
        "no-map": ({"metadata": {}}, "without a weight_map"),
        "map-list": ({"weight_map": [1]}, "without a weight_map"),
        "twice": ('{"weight_map":{"a":"x","a":"y"}}', "twice"),
        "parent": ({"weight_map": {"a": "../part.safetensors"}}, "beside the index"),
        "absolute": ({"weight_map": {"a": "/etc/passwd"}}, "beside the index"),
        "folder": ({"weight_map": {"a": "x/part.safetensors"}}, "beside the index"),
        "backslash": ({"weight_map": {"a": "x\\part.safetensors"}}, "beside the index"),
        "dots": ({"weight_map": {"a": ".."}}, "beside the index"),
        "control": ({"weight_map": {"a": "part\n"}}, "beside the index"),
        "null": ({"weight_map": {"a": "part\0"}}, "beside the index"),
        "number": ({"weight_map": {"a": 5}}, "beside the index"),
        "itself": ({"weight_map": {"a": "itself.safetensors.index.json"}}, "an index itself"),
        "absent": ({"weight_map": {"a": "absent.safetensors"}}, "no such file"),
        "extra": ({"weight_map": {**home, "c": "part.safetensors"}}, "lacks 1"),
        "unlisted": ({"weight_map": {"b": "part.safetensors"}}, "unlisted, 1"),
        "shards": ({"weight_map": {f"{i}": f"{i}.x" for i in range(200)}}, "200 shards"),
        "tensors": ({"weight_map": {f"{i}": "x" for i in range(20_001)}}, "20001 tensors"),
        "name": ({"weight_map": {"../a": "part.safetensors"}}, "is named"),
        "lists": ('{"weight_map":[' + "[]," * 2_000_000 + "0]}", "more than 20000 tensors"),
        "large": ('{"weight_map":' + " " * 11_000_000 + "{}}", "at most"),
    }
    for name, (text, words) in texts.items():
        path = folder / f"{name}.safetensors.index.json"
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        yield Case(f"index-{name}", str(path), words)


def _odd_paths(folder: Path) -> Iterator[Case]:
    real = folder / "part.safetensors"
    (folder / "link.safetensors").symlink_to(real)
    (folder / "dangling.safetensors").symlink_to(folder / "nowhere")
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    (folder / "linked.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"b": "link.safetensors"}})
    )
    os.mkfifo(folder / "pipe.safetensors")
    for name, words in (("link", "symbolic link"), ("dangling", "symbolic link"),
                        ("loop", "symbolic link"), ("pipe", "not a regular file"),
                        ("absent", "no such file")):  # fmt: skip
        yield Case(f"path-{name}", str(folder / f"{name}.safetensors"), words)
    linked = folder / "linked.safetensors.index.json"
    yield Case("path-linked-shard", str(linked), "symbolic link")
    yield Case("path-device", "/dev/zero", "not a regular file")
    yield Case("path-null", str(folder / "a\0b"), "cannot be opened")
    yield Case("path-long", str(folder / ("x" * 300)), "cannot be opened")
    for name in ("empty", "fp16"):
        (folder / name).mkdir()
    (folder / "fp16" / "model.fp16.safetensors").write_bytes(GOOD_SAFETENSORS)
    yield Case("component-empty", str(folder / "empty"), "that it has: none")
    yield Case("component-variant", str(folder / "fp16"), "model.fp16.safetensors")
