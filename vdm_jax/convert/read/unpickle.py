"""Which tensors a torch pickle describes: a script that runs alone, confined, and only names them.

A pickle is a program. This one can call five things: make an ordered dictionary, name a view of a
storage, pass that through as a parameter, make a placeholder that swallows what it is given, and
that is counted as two. Every other name that it asks for ends the reading. No tensor is made: the
answer, JSON on standard output, says of each its name, dtype, shape, strides, storage and offset.

In a TorchScript archive the names of its own classes, which are all under __torch__, stand for
bundles of attributes, whatever they are called.

`sandbox.py` starts it with the bytes on standard input. It imports the standard library only, then
gives up memory, time, new files, sockets and processes before it looks at the first byte.
"""

import json
import pickle
import resource
import sys
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before version 1.6
BIGGEST = 2**62


class Refused(Exception):  # noqa: N818 - as its namesake in the library, which is out of reach
    """The text of one line for the user."""


class StorageType(NamedTuple):
    dtype: str


class Storage(NamedTuple):
    key: str
    dtype: str
    count: int


class View(NamedTuple):
    """A tensor: elements offset + sum(index * stride) of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """In place of an object that is no weight (a callback, a scalar): swallows everything."""

    __slots__ = ()

    def __new__(cls, *_: object) -> "Inert":
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass

    append = add = extend


class Module(Inert):
    """In place of a module of a TorchScript program: its attributes."""

    __slots__ = ("attributes",)

    def __setstate__(self, state: object) -> None:
        self.attributes = state


def view(storage, offset, shape, stride, gradient=None, hooks=None, metadata=None) -> View:
    numbers = (offset, *shape, *stride)
    if type(storage) is not Storage or not all(type(n) is int for n in numbers):
        raise Refused("describes a tensor that is not made of a storage and integers")
    if len(shape) != len(stride) or not all(0 <= n < BIGGEST for n in numbers):
        raise Refused("describes a tensor with a negative or huge size, stride or offset")
    return View(storage, offset, tuple(shape), tuple(stride))


def parameter(data, gradient=None, hooks=None) -> View:
    if type(data) is not View:
        raise Refused("describes a parameter that is not made of a tensor")
    return data


def plain_dict(*_: object) -> OrderedDict:
    return OrderedDict()


STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool",
}  # fmt: skip
ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): plain_dict,
    ("torch._utils", "_rebuild_tensor_v2"): view,
    ("torch._utils", "_rebuild_parameter"): parameter,
    **{("torch", f"{name}Storage"): StorageType(dtype) for name, dtype in STORAGES.items()},
    **{("torch", name): Inert for name in ("Size", "device", *STORAGES.values())},
    **{(f"numpy.{core}.multiarray", "scalar"): Inert for core in ("core", "_core")},
    ("numpy", "dtype"): Inert,
    ("_codecs", "encode"): Inert,
    ("argparse", "Namespace"): Inert,
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): Inert,
    ("pytorch_lightning.utilities.parsing", "AttributeDict"): plain_dict,
    ("lightning_fabric.utilities.data", "AttributeDict"): plain_dict,
    ("lightning.fabric.utilities.data", "AttributeDict"): plain_dict,
}


class Reader(pickle.Unpickler):
    """Knows the names in ALLOWED and storages by their key; `storages` collects the latter."""

    def __init__(self, stream: BytesIO, storages: dict[str, Storage]):
        super().__init__(stream, encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise Refused(
                f"asks for {module[:80]}.{name[:80]}: only tensors and plain containers are read"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: object) -> Storage:
        match pid:
            case ("storage", StorageType() as kind, key, _, count):
                pass
            case ("storage", StorageType() as kind, key, _, count, None):
                pass
            case _:
                raise Refused("refers to something outside of it that is no storage of numbers")
        if type(key) is not str or not (key.isascii() and key.isdecimal() and len(key) <= 20):
            raise Refused(f"names a storage {str(key)[:40]!a}; storages are numbered")
        if type(count) is not int or not 0 <= count < BIGGEST:
            raise Refused(f"gives storage {key} a size that no storage has")
        storage = Storage(key, kind.dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"describes storage {key} in two ways")
        return storage


class ScriptReader(Reader):
    """Knows the classes of a TorchScript program and the lists of its attributes besides."""

    def find_class(self, module: str, name: str) -> object:
        if module.partition(".")[0] == "__torch__":
            return Module
        if module == "torch.jit._pickle":
            return Inert
        return super().find_class(module, name)


def read_zip(stream: BytesIO) -> dict:
    storages: dict[str, Storage] = {}
    rows = table(Reader(stream, storages).load())
    return {"tensors": rows, "storages": list(storages.values())}


def read_script(stream: BytesIO) -> dict:
    storages: dict[str, Storage] = {}
    program = ScriptReader(stream, storages).load()
    if type(program) is not Module:
        raise Refused("is said to be of a TorchScript program, and holds no module")
    tensors = dict(attributes(program, ""))
    if not tensors:
        raise Refused("is of a TorchScript program whose modules hold no tensors")
    return {"tensors": table(tensors), "storages": list(storages.values())}


def attributes(module: Module, path: str) -> Iterator[tuple[str, View]]:
    """All tensors of a module and those below it, by their path: "layer.0.weight"."""
    state = getattr(module, "attributes", None)
    if not isinstance(state, dict) or not all(type(name) is str for name in state):
        raise Refused("describes a module that is no table of names")
    for name, value in dict.items(state):
        if type(value) is View:
            yield f"{path}{name}", value
        elif type(value) is Module:
            yield from attributes(value, f"{path}{name}.")


def read_legacy(stream: BytesIO) -> dict:
    """Four pickles and the order of the storages, whose bytes begin at `end`."""
    storages: dict[str, Storage] = {}
    if (Reader(stream, {}).load(), Reader(stream, {}).load()) != (MAGIC, PROTOCOL):
        raise Refused("does not begin as files of torch do")
    system = Reader(stream, {}).load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Refused("was written on a big-endian machine")
    rows = table(Reader(stream, storages).load())
    keys = Reader(stream, {}).load()
    if type(keys) is not list or set(keys) != set(storages) or len(keys) != len(storages):
        raise Refused("lists other storages than its tensors use")
    return {
        "tensors": rows,
        "storages": [storages[key] for key in keys],
        "end": stream.tell(),
    }


def table(content: object) -> list[tuple]:
    """The rows of the one mapping of names to tensors: the content itself, or the entry with it."""
    rows = []
    for name, tensor in dict.items(weights(content)):
        if type(tensor) is View:
            if type(name) is not str:
                raise Refused("has a tensor whose name is no text")
            storage, offset, shape, stride = tensor
            rows.append((name, storage.dtype, shape, stride, storage.key, offset))
    return rows


def weights(content: object) -> dict:
    if not isinstance(content, dict):
        raise Refused("holds no table of names and tensors")
    if holds_tensors(content):
        return content
    if holds_tensors(content.get("state_dict")):
        return content["state_dict"]
    entries = [name for name, value in dict.items(content) if holds_tensors(value)]
    if len(entries) != 1:
        names = ", ".join(str(name)[:40] for name in entries[:9] if type(name) is str) or "none"
        raise Refused(f"should have tensors, or one entry with them, at its top; it has {names}")
    return content[entries[0]]


def holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(type(v) is View for v in dict.values(value))


def confine(memory: int, seconds: int) -> None:
    """No more memory and time than this; no file, socket, process or import from here on."""
    if sys.platform != "darwin":  # whose kernel does not take this one
        _lower(resource.RLIMIT_AS, memory)
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(kind, most)
    sys.addaudithook(deny)


def _lower(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def deny(event: str, _: tuple) -> None:
    """The interpreter tells of everything that reaches beyond it; reading a pickle needs none."""
    if event != "pickle.find_class":
        raise Refused(f"tries what no reading of weights needs: {event}")


READERS = {"zip": read_zip, "script": read_script, "legacy": read_legacy}


def answered(form: str, data: bytes) -> dict:
    try:
        return READERS[form](BytesIO(data))
    except Refused as refused:
        return {"refused": str(refused)}
    except MemoryError:
        return {"refused": "asks for more memory than reading weights takes"}
    except Exception as error:  # whatever a malformed pickle leads to
        return {"refused": f"is malformed: {type(error).__name__}: {str(error)[:120]}"}


def main() -> None:
    form, memory, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    confine(memory, seconds)
    text = json.dumps(answered(form, sys.stdin.buffer.read()))
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
