"""LoRA in the field's files: written from a run, and read to be added to a model or taken from it.

A tensor is called by its layer's name in diffusers and its side, as PEFT calls it:

    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight   (rank, in)
    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight   (out, rank)

The scale alpha / rank is multiplied into B, so that there is none to be told. What is read may call
the sides lora.down and lora.up, leave out "unet.", and say alpha: in tensors `….alpha`, or in the
metadata of diffusers; without either alpha is the rank.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.adapters.lora import LoRA, sides
from vdm_jax.convert import safetensors_writer
from vdm_jax.convert.layout import Shape
from vdm_jax.convert.pipelines import STABLE_VIDEO
from vdm_jax.convert.read.source import open_source
from vdm_jax.convert.read.tensors import count_nonfinite
from vdm_jax.convert.rules import refuse
from vdm_jax.convert.safetensors_writer import PT, Entry
from vdm_jax.core import checkpoint, storage
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample.joined import Held, Joined, Weights, shape_of
from vdm_jax.sample.load import Described

METADATA = "lora_adapter_metadata"  # where diffusers keeps PEFT's settings, as JSON
_SIDE = re.compile(r"(?:unet\.)?(.+)\.(?:lora_([AB])|lora\.(down|up))(?:\.default)?\.weight")
_ALPHA = re.compile(r"(?:unet\.)?(.+)\.alpha")


def write(directory: Path, config: Described, output: Path) -> int:
    """The LoRA of a run as one safetensors file; returns the number of its layers.

    Raises Refusal for what trains no LoRA, and for a model whose layers have no names elsewhere.
    """
    lora = getattr(config, "trainable", None)
    if not isinstance(lora, LoRA):
        raise Refusal(f"{directory} has no LoRA; --to model or --to diffusers takes all of it")
    if output.suffix != ".safetensors":
        raise Refusal(f"--output {output}: a LoRA is written to a file that ends .safetensors")
    if output.exists():
        raise Refusal(f"--output {output} exists; a LoRA is written to a new file")
    stored = checkpoint.stored_weights(directory)
    arrays = {}
    for name, factor in stored.read(list(stored.kinds)).items():
        path, _, side = name.rpartition("/")
        factor = factor.T if side == "a" else lora.scale * factor.T
        arrays[f"{_layer(path)}.lora_{side.upper()}.weight"] = factor.astype(np.float32)
    refuse("the LoRA is not finite", [name for name, a in arrays.items() if count_nonfinite(a)])
    layers = sorted({name.partition(".lora_")[0].removeprefix("unet.") for name in arrays})
    settings = {"r": lora.rank, "lora_alpha": lora.rank, "target_modules": layers}
    metadata = {METADATA: json.dumps({f"unet.{key}": value for key, value in settings.items()})}
    draft = output.with_name(f".{output.name}.saving")
    with storage.one_line(f"the LoRA could not be written to {output}"):
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            entries = {name: Entry(array.shape, array.dtype.name) for name, array in arrays.items()}
            safetensors_writer.write(draft, entries, arrays.values(), {**PT, **metadata})
            draft.rename(output)
        finally:
            draft.unlink(missing_ok=True)
    return len(layers)


def _layer(path: str) -> str:
    """What a layer is called in diffusers, "unet.….to_q", by the path of its kernel here."""
    named = STABLE_VIDEO.table.theirs(path)
    if named is None:
        raise Refusal(f"{path} has no name in diffusers; only Stable Video's LoRAs are exported")
    return named.name.removesuffix(".weight")


def added(model: Weights, file: Path, scale: float) -> Weights:
    """A model with the LoRA of a file; scale -1 takes out what scale 1 put in.

    Raises one Refusal that names every tensor that does not fit the model.
    """
    factors = _read(file, {name: shape_of(kind) for name, kind in model.kinds.items()}, scale)
    return Joined(LoRA(rank=1), Held(factors), model)  # the scale is in the factors


def _read(file: Path, model: Mapping[str, Shape], scale: float) -> dict[str, np.ndarray]:
    """The factors "network/…/kernel/a", "…/b" of the file, its scale in the first.

    model: the shapes of its arrays.
    """
    with open_source(file) as source:
        tensors = {name: source.read(name) for name in source.tensors()}
        told = _told_alpha(getattr(source, "metadata", {}))
    alphas = {
        m[1]: float(a) for n, a in tensors.items() if (m := _ALPHA.fullmatch(n)) and a.size == 1
    }
    factors: dict[str, np.ndarray] = {}
    wrong = []
    for name, tensor in tensors.items():
        if _ALPHA.fullmatch(name):
            continue
        match = _SIDE.fullmatch(name)
        ours = match and STABLE_VIDEO.table.ours(f"unet.{match[1]}.weight")
        if not match or ours is None or ours.name not in model:
            wrong.append(f"{name} belongs to no layer of this model")
            continue
        side = "a" if match[2] == "A" or match[3] == "down" else "b"
        factor = tensor.astype(np.float32).T
        if side == "a":
            rank = tensor.shape[0]
            factor = factor * np.float32(scale * (alphas.get(match[1], told or rank) / rank))
        if count_nonfinite(factor):
            wrong.append(f"{name} has values that are NaN or infinite")
        factors[f"{ours.name}/{side}"] = factor
    refuse(f"{file} does not fit", [*wrong, *_unfit(factors, model)])
    return factors


def _unfit(factors: Mapping[str, np.ndarray], model: Mapping[str, Shape]) -> list[str]:
    """What is wrong with the factors' shapes, a line for each kernel."""
    wrong = []
    for path in sorted({name.rpartition("/")[0] for name in factors}):
        a, b = (factors.get(f"{path}/{side}") for side in "ab")
        if a is None or b is None:
            wrong.append(f"{_layer(path)} has one side of two")
            continue
        _, rows, columns = sides(tuple(path.split("/")), model[path])
        got = (*a.shape, *b.shape)
        if a.ndim != 2 or b.ndim != 2 or got != (rows, a.shape[1], a.shape[1], columns):
            wrong.append(f"{_layer(path)} has factors {a.shape} and {b.shape} for {rows}x{columns}")
    return wrong


def _told_alpha(metadata: Mapping[str, str]) -> float | None:
    """Alpha in the metadata of diffusers, if it is there."""
    try:
        settings: Any = json.loads(metadata.get(METADATA, "{}"))
        alpha = settings.get("unet.lora_alpha", settings.get("lora_alpha"))
    except (ValueError, AttributeError):
        return None
    return float(alpha) if isinstance(alpha, int | float) else None
