"""The one door for weights of other libraries: open a file or a folder, whatever wrote it.

What a file is, its first bytes decide, not its name. Read are safetensors, files of torch.save, and
the index of either's shards; all else is refused in one line that says what it is. No code of a
file runs, and no file makes the program take memory beyond its own size.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import numpy as np

from vdm_jax.convert.read import safetensors_file, tensors, torch_file
from vdm_jax.convert.read.plain_file import PlainFile
from vdm_jax.convert.read.safetensors_file import SafetensorsFile
from vdm_jax.convert.read.tensors import Limits, Source, TensorInfo
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_ENDINGS = ("safetensors", "bin")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-](?!.*\.\.)[A-Za-z0-9_.-]{0,250}")
_HTML = (b"<!doctype", b"<html", b"<head", b"<?xml")
_OTHERS = {
    b"version https://git-lfs": "a git-lfs pointer, not the file: fetch it with git lfs pull",
    b"\x1f\x8b": "a gzip archive",
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x93NUMPY": "a numpy array",
    b"PK\x05\x06": "an empty zip file",
    b"\x80": "a bare pickle, which only code can read: save it with torch.save or as safetensors",
}  # in this order


def open_source(path: str | os.PathLike, *, limits: Limits | None = None) -> Source:
    """The tensors of a safetensors file, a torch file, or an index (….index.json) of shards.

    Raises Refusal for anything else, and for a file whose declarations do not hold together.
    """
    path, limits = Path(path), limits or Limits()
    file = PlainFile(path)
    try:
        if path.name.endswith(".json"):
            with file:
                return _sharded(file, limits)
        return _reader(file)(file, limits)
    except BaseException:
        file.close()
        raise


def open_component(
    folder: str | os.PathLike, variant: str | None, *, limits: Limits | None = None
) -> Source:
    """The weights in one component's folder (unet/, vae/, …) of a diffusers model.

    variant: as in `….fp16.safetensors`; None for files without one. Of several forms safetensors is
    preferred to torch's, one file to shards.
    """
    folder = Path(folder)
    if variant is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", variant):
        raise Refusal(f"variant {variant!r} is no part of a file name")
    present = _weight_files(folder)
    for name in _file_names(variant):
        if name in present:
            return open_source(folder / name, limits=limits)
    wanted = f"{_STEMS[0]}.{f'{variant}.' if variant else ''}{_ENDINGS[0]}"
    others = ", ".join(sorted(present)[:6]) or "none"
    raise Refusal(f"{folder}: has no {wanted} or the like; weights that it has: {others}")


def _weight_files(folder: Path) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if name.split(".")[0] in _STEMS}
    except (OSError, ValueError) as error:
        raise Refusal(f"{folder}: cannot be read as a folder: {reason(error)}") from None


def _file_names(variant: str | None) -> Iterable[str]:
    """Names of weight files, best first. Libraries disagree on where an index has its variant."""
    for ending in _ENDINGS:
        for stem in _STEMS:
            if variant is None:
                yield from (f"{stem}.{ending}", f"{stem}.{ending}.index.json")
            else:
                yield f"{stem}.{variant}.{ending}"
                yield f"{stem}.{ending}.index.{variant}.json"
                yield f"{stem}.{ending}.{variant}.index.json"


def _reader(file: PlainFile) -> Callable[[PlainFile, Limits], Source]:
    """How to read the file, by its first bytes. Raises Refusal naming what else it is."""
    head = file.read(0, min(file.size, 512))
    if not head:
        raise Refusal(f"{file.path}: is empty")
    if head.startswith(b"PK\x03\x04"):
        return torch_file.open_zip
    if head.startswith(torch_file.LEGACY_MAGIC):
        return torch_file.open_legacy
    if head[8:9] == b"{":
        return SafetensorsFile
    raise Refusal(f"{file.path}: {_what(file, head)}; safetensors and files of torch.save are read")


def _what(file: PlainFile, head: bytes) -> str:
    if head.lstrip().lower().startswith(_HTML):
        return "is a web page, perhaps the answer of a server that wanted a login"
    if head[257:262] == b"ustar":
        return "is a tar archive (what torch wrote before version 0.1.10, or a packed folder)"
    if not any(head):
        return "begins with nothing but zeros, as broken downloads do"
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            return f"is {name}"
    if file.size < 9:
        return f"is cut short: it has {file.size} bytes"
    return f"is no file of weights by its first bytes, {tensors.clipped(head[:12])}"


# ---- Shards --------------------------------------------------------------------------------------


class _Shards:
    """A Source made of several, each name in exactly one."""

    def __init__(self, parts: Iterable[Source], index: Path):
        self._parts = tuple(parts)
        self._index = index
        self._home = {name: part for part in self._parts for name in part.tensors()}
        self._tensors = {n: info for part in self._parts for n, info in part.tensors().items()}

    def tensors(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType(self._tensors)

    def read(self, name: str) -> np.ndarray:
        tensors.found(self._tensors, self._index, name)
        return self._home[name].read(name)

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _sharded(file: PlainFile, limits: Limits) -> Source:
    """The shards that an index names, all beside it, each holding exactly what it should."""
    wanted = _weight_map(file, limits)
    with ExitStack() as opened:
        parts = []
        for shard in wanted:
            part = opened.enter_context(_shard(file.path.parent / shard, limits))
            _check_shard(file.path, shard, wanted[shard], part.tensors().keys())
            parts.append(part)
        opened.pop_all()
        return _Shards(parts, file.path)


def _shard(path: Path, limits: Limits) -> Source:
    if path.name.endswith(".json"):
        raise Refusal(f"{path}: is named as a shard, and is an index itself")
    return open_source(path, limits=limits)


def _weight_map(file: PlainFile, limits: Limits) -> dict[str, set[str]]:
    """The names that each shard should hold."""
    if file.size > limits.header:
        raise Refusal(
            f"{file.path}: an index of {file.size} bytes; at most {limits.header} are read"
        )
    index = safetensors_file.parsed(file, file.read(0, file.size).strip(), "index", limits)
    table = index.get("weight_map")
    if type(table) is not dict or not table:
        raise Refusal(f"{file.path}: is JSON without a weight_map, so not the index of any shards")
    if len(table) > limits.tensors:
        raise Refusal(f"{file.path}: names {len(table)} tensors, over {limits.tensors}")
    wanted: dict[str, set[str]] = {}
    for name, shard in table.items():
        wanted.setdefault(_file_name(file.path, shard), set()).add(
            tensors.checked_name(file.path, name, limits)
        )
    if len(wanted) > limits.shards:
        raise Refusal(f"{file.path}: names {len(wanted)} shards, over {limits.shards}")
    return wanted


def _file_name(index: Path, shard: object) -> str:
    if isinstance(shard, str) and _SHARD_NAME.fullmatch(shard):
        return shard
    raise Refusal(
        f"{index}: names a shard {tensors.clipped(shard)}; shards are files beside the index"
    )


def _check_shard(index: Path, shard: str, wanted: set[str], present: Iterable[str]) -> None:
    present = set(present)
    for names, fault in ((wanted - present, "lacks"), (present - wanted, "holds, unlisted,")):
        if names:
            raise Refusal(
                f"{index}: shard {shard} {fault} {len(names)} tensors, among them {min(names)!r}"
            )
