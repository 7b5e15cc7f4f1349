"""`python -m vdm_jax.convert.whole_clip --from FOLDER --output DIR`: both towers of CLIP.

FOLDER is as transformers publishes a CLIPModel, of OpenAI's or of OpenCLIP's weights: config.json,
model.safetensors or pytorch_model.bin, and the tokenizer's files. The directory is what curation
scores texts and pictures by: `python -m vdm_jax.curate … --weights clip=DIR`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.conditioning import tokenizer
from vdm_jax.convert import architecture, clip
from vdm_jax.convert.config_reader import ConfigReader
from vdm_jax.convert.layout import Layout, Shape
from vdm_jax.convert.original import LARGEST_CONFIG
from vdm_jax.convert.plan import built_shapes
from vdm_jax.convert.read.plain_file import PlainFile
from vdm_jax.convert.read.safetensors_file import parsed
from vdm_jax.convert.read.source import open_component
from vdm_jax.convert.read.tensors import DTYPES, Source, count_nonfinite
from vdm_jax.convert.rules import Move, Table, moves, refuse, rules, unbiased, under, unused
from vdm_jax.core import checkpoint, command
from vdm_jax.core import config as configs
from vdm_jax.core.deferred import Deferred
from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.clip import CLIPConfig

PROG = "python -m vdm_jax.convert.whole_clip"
TABLE: Table[Layout] = Table(
    rules(
        under("", "picture", clip.VISION),
        under("", "text", clip.TEXT),
        unbiased("text_projection", "projection"),
    )
)
UNUSED = (
    "logit_scale",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)
TOKENIZER = "tokenizer"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Write a model directory that holds both towers of CLIP."""

    from_: str = ""
    """Folder of a CLIPModel of transformers."""
    output: str = ""
    """Directory to write; must not exist, or be empty."""


def main(args: Sequence[str]) -> None:
    request = configs.override(Request(), args, prog=PROG)
    if not request.from_ or not request.output:
        raise Refusal(f"--from and --output are needed; see {PROG} --help")
    checkpoint.check_new(request.output)
    count = write(Path(request.from_), Path(request.output))
    print(f"{request.output}: both towers of CLIP, {count:,} numbers")


def write(source: Path, output: Path) -> int:
    """How many numbers were brought. Raises one Refusal that names all that does not fit."""
    if not source.is_dir():
        raise Refusal(f"{source} is no folder; give that of a CLIPModel, with its config.json")
    config = described(source)
    words = {f"{TOKENIZER}/{name}": text for name, text in tokenizer.texts(source).items()}
    with open_component(source, None) as opened:
        ready = _moves(source, opened, built_shapes(config))
        weights = {
            move.ours: Deferred(
                move.our_shape, DTYPES[opened.tensors()[move.theirs].dtype],
                partial(_brought, opened, move),
            )
            for move in ready
        }  # fmt: skip
        checkpoint.save_weights(output, configs.to_json(config), weights, words)
    return sum(prod(move.shape) for move in ready)


def described(source: Path) -> CLIPConfig:
    """What the folder's config.json says. Raises Refusal for what is no CLIP that is known here."""
    told = json_of(source / "config.json")
    if told.get("model_type") != "clip":
        kind = str(told.get("model_type"))[:80]
        raise Refusal(f"{source}: its config.json is of a {kind}; a whole clip is needed")
    width = ConfigReader("clip", told).number("projection_dim", 512)
    text = architecture.text_encoder(_part(told, "text_config")).tower
    end = _part(told, "text_config").get("eos_token_id", 49407)
    return CLIPConfig(
        picture=architecture.image_encoder(
            {**_part(told, "vision_config"), "projection_dim": width}
        ),
        text=text,
        end=text.vocabulary - 1 if end == 2 else int(end),  # 2: what was wrongly published
        tokenizer=TOKENIZER,
    )


def _part(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A tower's config; older files say some of it twice, and the second counts."""
    parts = [told.get(name) or {}, told.get(f"{name}_dict") or {}]
    if not all(isinstance(part, dict) for part in parts):
        raise Refusal(f"clip: {name} is no table of settings")
    whole = {**parts[0], **parts[1]}
    return {key: value for key, value in whole.items() if key != "architectures"}


def _moves(source: Path, opened: Source, ours: Mapping[str, Shape]) -> list[Move]:
    infos = opened.tensors()
    silent = set(unused(infos, UNUSED))
    theirs = {name: info.shape for name, info in infos.items() if name not in silent}
    ready, wrong = moves(theirs, ours, TABLE)
    wrong += [
        f"{name} holds {infos[name].dtype}, which weights do not"
        for name in theirs
        if "float" not in infos[name].dtype or "float8" in infos[name].dtype
    ]
    refuse(f"{source} does not fit its config.json", wrong)
    return ready


def _brought(opened: Source, move: Move) -> np.ndarray:
    array = opened.read(move.theirs)
    if count := count_nonfinite(array):
        raise Refusal(f"{move.theirs} has {count} values that are NaN or infinite")
    return np.ascontiguousarray(move.layout.bring(array, move.our_shape))


def json_of(path: Path) -> dict[str, Any]:
    """What a config.json says. Raises Refusal for what is none."""
    with PlainFile(path) as file:
        if file.size > LARGEST_CONFIG:
            raise Refusal(f"{path}: a config of {file.size} bytes; {LARGEST_CONFIG} are read")
        return parsed(file, file.read(0, file.size).strip(), "config")


if __name__ == "__main__":
    command.run(main)
