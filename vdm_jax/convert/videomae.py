"""`python -m vdm_jax.convert.videomae --from FILE_OR_FOLDER --output DIR`: an encoder of VideoMAE.

FILE is a checkpoint of the authors of VideoMAE or of VideoMAE V2, of torch or safetensors, such as
vit_g_hybrid_pt_1200e_ssv2_ft.pth, by which content-debiased FVD compares. Its widths say what it
is; what they do not say has the published values, and options for others. FOLDER is as transformers
publishes a VideoMAEForVideoClassification, a VideoMAEForPreTraining or a VideoMAEModel. Heads for
classes and decoders are not of use here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdm_jax.convert import layout
from vdm_jax.convert.config_reader import Config, ConfigReader
from vdm_jax.convert.layout import Layout, Shape
from vdm_jax.convert.plan import FLOATS, built_shapes
from vdm_jax.convert.read.source import open_component, open_source
from vdm_jax.convert.read.tensors import DTYPES, Source, TensorInfo, count_nonfinite
from vdm_jax.convert.rules import (
    Move,
    Rules,
    Table,
    layer_norm,
    linear,
    linear_out,
    moves,
    one,
    refuse,
    rules,
    unbiased,
    under,
)
from vdm_jax.convert.whole_clip import json_of
from vdm_jax.core import checkpoint, command
from vdm_jax.core import config as configs
from vdm_jax.core.deferred import Deferred
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.videomae import VideoMAEConfig

PROG = "python -m vdm_jax.convert.videomae"
TUBES = Layout(lambda s: (s[4], s[3], s[0], s[1], s[2]), layout.CONV.bring, layout.CONV.take)
"""(frames, rows, columns, i, o): a convolution of three dimensions with them."""
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
"""Heads of the published encoders, by their width."""

ORIGINAL: Rules = rules(
    under("blocks.{}", "layers/{}",
        layer_norm("norm1"),
        under("attn", "attention",
            unbiased("q", "to_q"), one("q_bias", "to_q/bias", layout.VECTOR),
            unbiased("k", "to_k"),
            unbiased("v", "to_v"), one("v_bias", "to_v/bias", layout.VECTOR),
            linear_out("proj", "to_out"),
        ),
        layer_norm("norm2"),
        linear("mlp.fc1", "fc1"),
        linear("mlp.fc2", "fc2"),
    ),
    one("patch_embed.proj.weight", "tubes/kernel", TUBES),
    one("patch_embed.proj.bias", "tubes/bias"),
)  # fmt: skip
TRANSFORMERS: Rules = rules(
    under("encoder.layer.{}", "layers/{}",
        layer_norm("layernorm_before", "norm1"),
        under("attention.attention", "attention",
            unbiased("query", "to_q"), one("q_bias", "to_q/bias", layout.VECTOR),
            unbiased("key", "to_k"),
            unbiased("value", "to_v"), one("v_bias", "to_v/bias", layout.VECTOR),
        ),
        linear_out("attention.output.dense", "attention/to_out"),
        layer_norm("layernorm_after", "norm2"),
        linear("intermediate.dense", "fc1"),
        linear("output.dense", "fc2"),
    ),
    one("embeddings.patch_embeddings.projection.weight", "tubes/kernel", TUBES),
    one("embeddings.patch_embeddings.projection.bias", "tubes/bias"),
)  # fmt: skip
PREFIXES = ("", "encoder.", "videomae.")  # before all names of the encoder
TRAINING_ONLY = re.compile(
    r"(head|classifier|decoder)\..*|encoder_to_decoder\.weight|mask_token|pos_embed"
    r"|(videomae\.)?embeddings\.position_embeddings"
)
SPELLED = (
    ("attention.query.bias", "attention.q_bias"),
    ("attention.value.bias", "attention.v_bias"),
)
"""What some releases of transformers write, and what the others do."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Write a model directory that holds an encoder of VideoMAE."""

    from_: str = ""
    """The authors' file, or a folder of transformers."""
    output: str = ""
    """Directory to write; must not exist, or be empty."""
    heads: int | None = None
    """Of a file: heads of its attention, where its width is none of the published ones."""
    image_size: int = 224
    """Of a file: height and width of the videos that it was trained with."""
    num_frames: int = 16
    """Of a file: their frames."""


class Piece(NamedTuple):
    """One array that is wanted of a file: a tensor, or one of the three that it holds."""

    name: str
    shape: Shape
    third: int | None


def main(args: Sequence[str]) -> None:
    request = configs.override(Request(), args, prog=PROG)
    if not request.from_ or not request.output:
        raise Refusal(f"--from and --output are needed; see {PROG} --help")
    checkpoint.check_new(request.output)
    count = write(request)
    print(f"{request.output}: an encoder of VideoMAE, {count:,} numbers")


def write(request: Request) -> int:
    """How many numbers were brought. Raises one Refusal that names all that does not fit."""
    path = Path(request.from_)
    with open_component(path, None) if path.is_dir() else open_source(path) as source:
        used = pieces(source.tensors())
        norm = next(
            (name for name in ("fc_norm", "layernorm", "norm") if _has(used, name)), "fc_norm"
        )
        if path.is_dir():
            body = TRANSFORMERS
            config = _told(json_of(path / "config.json"), norm)
        else:
            body = ORIGINAL
            config = _seen(path, used, request, norm)
        table = Table(rules(*_placed(used, body, norm)))
        theirs = {name: piece.shape for name, piece in used.items()}
        ready, wrong = moves(theirs, built_shapes(config), table)
        wrong += _kinds(source, used)
        refuse(f"{path} is not the encoder of VideoMAE that it seems", wrong)
        _check_finite(path, source, used)
        weights = {move.ours: _deferred(source, used[move.theirs], move) for move in ready}
        checkpoint.save_weights(request.output, configs.to_json(config), weights)
    return sum(prod(move.shape) for move in ready)


def pieces(infos: Mapping[str, TensorInfo]) -> dict[str, Piece]:
    """What is wanted of a file, by names that are one for each array.

    The authors keep query, key and value in one matrix: it is three here, "attn.q.weight" and on.
    """
    found = {}
    for name, info in infos.items():
        if TRAINING_ONLY.fullmatch(name):
            continue
        stem, joined, _ = name.partition("attn.qkv.weight")
        if joined and len(info.shape) == 2 and info.shape[0] % 3 == 0:
            shape = (info.shape[0] // 3, info.shape[1])
            for third, letter in enumerate("qkv"):
                found[f"{stem}attn.{letter}.weight"] = Piece(name, shape, third)
            continue
        called = name
        for theirs, usual in SPELLED:
            called = re.sub(rf"{re.escape(theirs)}$", usual, called)
        found[called] = Piece(name, info.shape, None)
    return found


def _has(used: Mapping[str, Piece], norm: str) -> bool:
    return any(name == f"{prefix}{norm}.weight" for name in used for prefix in PREFIXES)


def _placed(used: Mapping[str, Piece], body: Rules, norm: str) -> tuple[Rules, ...]:
    """The rules of a file: those of the encoder and of its last norm, where they stand in it."""
    first = next(rule.theirs for rule in body if rule.ours == "tubes/kernel")
    stem = next((prefix for prefix in PREFIXES if prefix + first in used), "").rstrip(".")
    above = "" if norm == "fc_norm" else stem
    return under(stem, "", body), under(above, "", layer_norm(norm, "norm"))


def _told(told: Config, norm: str) -> VideoMAEConfig:
    """What a config.json of transformers says."""
    if told.get("model_type") != "videomae":
        kind = str(told.get("model_type"))[:80]
        raise Refusal(f"videomae: the folder's config.json is of a {kind}; VideoMAE's is needed")
    read = ConfigReader("videomae", told)
    read.only(hidden_act="gelu", qv_bias=True, qkv_bias=True, num_channels=3)
    return VideoMAEConfig(
        width=read.number("hidden_size", 768),
        hidden=read.number("intermediate_size", 3072),
        layers=read.number("num_hidden_layers", 12),
        heads=read.number("num_attention_heads", 12),
        patch_size=read.number("patch_size", 16),
        tube=read.number("tubelet_size", 2),
        image_size=read.number("image_size", 224),
        num_frames=read.number("num_frames", 16),
        norm="pooled" if norm == "fc_norm" else "tokens",
        eps=read.number("layer_norm_eps", 1e-12),
    )


def _seen(path: Path, used: Mapping[str, Piece], request: Request, norm: str) -> VideoMAEConfig:
    """What the shapes of a file say, and the options."""
    shapes = {name.removeprefix("encoder."): piece.shape for name, piece in used.items()}
    patch, hidden = (
        shapes.get("patch_embed.proj.weight", ()),
        shapes.get("blocks.0.mlp.fc1.bias", ()),
    )
    if len(patch) != 5 or len(hidden) != 1:
        raise Refusal(
            f"{path} has no patch_embed.proj.weight and blocks.0.mlp.fc1.bias as the authors' files"
            " of VideoMAE have; of transformers, give the folder with its config.json"
        )
    width = patch[0]
    heads = HEADS.get(width) if request.heads is None else request.heads
    if heads is None:
        raise Refusal(f"{path}: a width of {width} is of no published encoder; give --heads")
    layers = {name.split(".")[1] for name in shapes if re.match(r"blocks\.\d+\.", name)}
    return VideoMAEConfig(
        width=width,
        hidden=hidden[0],
        layers=len(layers),
        heads=heads,
        patch_size=patch[3],
        tube=patch[2],
        image_size=request.image_size,
        num_frames=request.num_frames,
        norm="pooled" if norm == "fc_norm" else "tokens",
    )


def _kinds(source: Source, used: Mapping[str, Piece]) -> list[str]:
    infos = source.tensors()
    names = {piece.name for piece in used.values() if infos[piece.name].dtype not in FLOATS}
    return [f"{name} holds {infos[name].dtype}, which weights do not" for name in sorted(names)]


def _check_finite(path: Path, source: Source, used: Mapping[str, Piece]) -> None:
    names = dict.fromkeys(piece.name for piece in used.values())
    refuse(f"{path}: not finite", [name for name in names if count_nonfinite(source.read(name))])


def _deferred(source: Source, piece: Piece, move: Move) -> Deferred:
    dtype = DTYPES[source.tensors()[piece.name].dtype]
    return Deferred(move.our_shape, dtype, partial(_brought, source, piece, move))


def _brought(source: Source, piece: Piece, move: Move) -> np.ndarray:
    array = source.read(piece.name)
    if piece.third is not None:
        array = np.split(array, 3)[piece.third]
    return np.ascontiguousarray(move.layout.bring(array, move.our_shape))


if __name__ == "__main__":
    command.run(main)
