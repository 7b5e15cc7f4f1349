"""`python -m vdm_jax.convert --from PATH --output DIR`: weights of other libraries, and back.

python -m vdm_jax.convert --from svd_xt.safetensors --output models/svd_xt --dtype bfloat16
python -m vdm_jax.convert --from stable-video-diffusion-img2vid --variant fp16 --output models/svd
python -m vdm_jax.convert --from models/svd_xt --to diffusers --output exported
python -m vdm_jax.convert --from runs/tuned --output models/tuned
python -m vdm_jax.convert --from runs/tuned --to lora --output camera.safetensors
python -m vdm_jax.convert --from models/svd_xt --lora camera.safetensors --output models/camera
python -m vdm_jax.convert --from svd_xt.safetensors --check
python -m vdm_jax.convert --from stable-diffusion-2-1 --output models/sd21

The last is what training begins with (configs/svd_stage1_image.py). Only its weights are brought:
Stable Diffusion 2 was trained at noise levels of its own, and until the first stage of training has
taught it those of EDM it makes no pictures here.
"""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from vdm_jax.convert import export, lora, original, plan, published
from vdm_jax.convert.plan import Dtype, Plan
from vdm_jax.convert.read.plain_file import sha256
from vdm_jax.core import checkpoint, command
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import joined, load

PROG = "python -m vdm_jax.convert"
SOURCE = "source.json"  # in a model directory: the files that it was made from


@dataclass(frozen=True, kw_only=True)
class Request:
    """Bring the weights of Stable Video Diffusion or of Stable Diffusion 2 here, take a model back
    to diffusers, or make a model of a training run."""

    from_: str = ""
    """What to convert. A diffusers folder or, of Stable Video Diffusion, a
    single file (safetensors or torch); or a model or run directory of this package: of a run its
    averaged weights, whole. Stable Diffusion 2 (2.1 as well; not 1 and not XL) is what training
    begins with, configs/svd_stage1_image.py: until then it makes no pictures here, for its noise
    levels were others."""
    output: str = ""
    """Directory to write; must not exist, or be empty. With --to lora a file."""
    to: Literal["model", "diffusers", "lora"] = "model"
    """model: the directory that sample and train load. diffusers: a folder for diffusers. lora:
    what a run with LoRA has learnt, alone, as the field's .safetensors."""
    lora: str = ""
    """File of a LoRA to add to the model's weights."""
    lora_scale: float = 1.0
    """How much of --lora is added; -1 takes it out again."""
    dtype: Dtype | None = None
    """Type to store weights in; None is float32 for weights of other libraries, and for our own the
    type that they have."""
    variant: str = ""
    """Variant in the names of a diffusers folder's files, read or written, such as fp16."""
    configs: str = ""
    """Diffusers folder whose configs hold for a single file; otherwise the one that the file lies
    in, if it does, or its shapes tell."""
    num_frames: int | None = None
    """Frames of a video; None is what the config says, or 14 for svd and 25 for svd_xt files."""
    sha256: str = ""
    """The SHA-256 that the single file must have."""
    check: bool = False
    """Read everything, write nothing: names, shapes, types, and that all numbers are finite."""


def main(args: Sequence[str]) -> int:
    """Exit code 0, and lines that say what was found and written."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    request = configs.override(Request(), args, prog=PROG)
    _check(request)
    if _is_ours(Path(request.from_)) or request.to != "model":
        _from_ours(request)
    else:
        _to_model(request)
    return 0


def _check(request: Request) -> None:
    if not request.from_:
        raise Refusal(f"--from is missing: a file or folder to convert; see {PROG} --help")
    if not request.check and not request.output:
        raise Refusal("--output is missing: the directory to write; or give --check")
    if request.check and request.output:
        raise Refusal("--check writes nothing: leave out --output")
    if request.num_frames is not None and request.num_frames < 1:
        raise Refusal(f"--num-frames must be at least 1, got {request.num_frames}")
    if not Path(request.from_).exists():
        raise Refusal(f"--from {request.from_}: there is no such file or folder")
    if request.variant and not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", request.variant):
        raise Refusal(f"--variant {request.variant!r} is no part of a file name, such as fp16")
    if request.output and request.to != "lora":
        checkpoint.check_new(request.output)
    if not math.isfinite(request.lora_scale):
        raise Refusal(f"--lora-scale must be a number, got {request.lora_scale}")
    if request.lora_scale != 1 and not request.lora:
        raise Refusal("--lora-scale is the share of --lora FILE, which is missing")


# ---- To a model directory ------------------------------------------------------------------------


def _to_model(request: Request) -> None:
    path = Path(request.from_)
    if request.lora:
        raise Refusal("--lora is for a model directory: convert the weights first, then add it")
    if request.sha256 and path.is_dir():
        raise Refusal("--sha256 is of one file; --from is a folder")
    with original.opened(
        path,
        variant=request.variant or None,
        configs=Path(request.configs) if request.configs else None,
        num_frames=request.num_frames,
    ) as opened:
        found = plan.plan(opened)
        print(f"{path}: {opened.kind}, {plan.what(found)}")
        print(plan.report(found), flush=True)
        dtype: Dtype = request.dtype or "float32"
        if not request.check:
            check_room(Path(request.output), found.result_bytes(dtype))
        sums = None if request.check and not request.sha256 else _sums(opened.files)
        if request.sha256 and sums is not None:
            _compare(request.sha256, path, sums)
        if request.check:
            with _bar("checking", found.source_bytes) as bar:
                found.check_values(bar)
            print("all numbers are finite")
            return
        with _bar("converting", found.source_bytes) as bar:
            write_model(found, Path(request.output), dtype, sums or {}, bar)
    print(f"{request.output}: written in {dtype}, {found.result_bytes(dtype) / 1e9:.2f} GB")


def write_model(
    found: Plan, output: Path, dtype: Dtype, sums: dict[Path, str], progress: plan.Progress
) -> None:
    """Write a model directory, all or nothing; at no time more than a handful of arrays is held.

    sums: the SHA-256 of each source file, noted in the directory.
    """
    files = [
        {"name": file.name, "folder": file.parent.name, "size": file.stat().st_size, "sha256": sha}
        for file, sha in sums.items()
    ]
    note = {"kind": found.original.kind, "files": files, "unused": sorted(found.original.unused)}
    checkpoint.save_weights(
        output,
        configs.to_json(found.pretrained),
        found.deferred(dtype, progress),
        {**found.original.beside, SOURCE: json.dumps(note, indent=1)},
    )


def _sums(files: Sequence[Path]) -> dict[Path, str]:
    """The SHA-256 of each file."""
    sums = {}
    with _bar("SHA-256", sum(file.stat().st_size for file in files)) as bar:
        for file in files:
            before = 0

            def progress(done: int, total: int) -> None:
                nonlocal before
                del total
                bar(done - before)
                before = done

            sums[file] = sha256(file, progress)
    return sums


def _compare(wanted: str, path: Path, sums: dict[Path, str]) -> None:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
        raise Refusal(f"--sha256 has 64 hexadecimal digits, got {wanted!r}")
    if list(sums.values()) != [wanted.lower()]:
        raise Refusal(f"{path}: its SHA-256 is {', '.join(sums.values())}, not {wanted.lower()}")


# ---- From a model or a run -----------------------------------------------------------------------


def _is_ours(path: Path) -> bool:
    return (path / "config.json").exists() and not (path / original.INDEX).exists()


def _from_ours(request: Request) -> None:
    for name in ("configs", "num_frames", "sha256"):
        if getattr(request, name):
            use = "a model or a run" if request.to == "model" else f"--to {request.to}"
            raise Refusal(f"--{name.replace('_', '-')} is not for {use}")
    source, output = Path(request.from_), Path(request.output)
    config = load.describe(source)
    if request.to == "lora":
        layers = lora.write(source, config, output)
        print(f"{output}: {layers} layers, {os.path.getsize(output) / 1e6:.3g} MB")
        return
    weights = joined.opened(source, config)
    if request.lora:
        weights = lora.added(weights, Path(request.lora), request.lora_scale)
    if request.to == "diffusers":
        _to_diffusers(request, export.opened(config, weights))
    else:
        _to_new_model(request, published.Published(config, weights, request.dtype))


def _to_diffusers(request: Request, found: export.Export) -> None:
    if request.check:
        with _bar("checking", found.stored_bytes) as bar:
            for part in found.parts:
                for _ in found.arrays(part, request.dtype, bar):
                    pass
        print(f"{request.from_}: all arrays are there, verified and finite")
        return
    check_room(Path(request.output), found.file_bytes(request.dtype))
    with _bar("exporting", found.stored_bytes) as bar:
        export.write(
            found,
            Path(request.output),
            dtype=request.dtype,
            variant=request.variant or None,
            progress=bar,
        )
    for part in found.parts:
        file = Path(request.output) / part / export.file_name(part, request.variant or None)
        print(f"{file}: {len(found.parts[part])} tensors, {os.path.getsize(file) / 1e9:.3f} GB")


def _to_new_model(request: Request, found: published.Published) -> None:
    if request.check:
        with _bar("checking", found.nbytes) as bar:
            found.check_values(bar)
        print(f"{request.from_}: all arrays are there, verified and finite")
        return
    check_room(Path(request.output), found.nbytes)
    with _bar("writing", found.nbytes) as bar:
        found.write(Path(request.output), bar)
    print(f"{request.output}: {found.parameters:,} parameters, {found.nbytes / 1e9:.2f} GB")


# ---- Both ----------------------------------------------------------------------------------------


def check_room(output: Path, needed: int) -> None:
    """Refuse a disk that has less free than `needed` bytes."""
    place = output.absolute()
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise Refusal(f"{output} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")


@contextmanager
def _bar(what: str, total: int) -> Iterator[plan.Progress]:
    """A progress bar of bytes, where somebody looks, as a callable that is told of each part."""
    look = {"unit": "B", "unit_scale": True, "leave": False, "disable": None}
    with tqdm(desc=what, total=total, **look) as bar:
        yield bar.update


if __name__ == "__main__":
    command.run(main)
