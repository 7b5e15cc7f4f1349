"""A model directory, or a run, as the folder that diffusers loads; the way back of `plan`.

One handful of arrays is read, turned and written at a time.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.conditioning import tokenizer
from vdm_jax.conditioning.image import CLIP_MEAN, CLIP_STD
from vdm_jax.conditioning.text import CLIPTextEncoderConfig
from vdm_jax.convert import architecture, pipelines, safetensors_writer
from vdm_jax.convert.layout import Layout, Shape
from vdm_jax.convert.original import INDEX, PREPROCESSOR
from vdm_jax.convert.pipelines import CONFIG_FILES, TOKENIZER, Pipeline
from vdm_jax.convert.plan import Dtype, Progress, in_dtype, shapes_of
from vdm_jax.convert.read.tensors import DTYPES, count_nonfinite
from vdm_jax.convert.safetensors_writer import Entry
from vdm_jax.core import manifest, storage
from vdm_jax.core.checkpoint import check_new
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample.joined import Weights, dtype_of, shape_of
from vdm_jax.sample.load import Described

AT_ONCE = 256 << 20  # bytes read in one go
DIFFUSERS = "0.24.0"  # the version whose configs these are; later ones read them
STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
    "text_encoder": "model",
}


class Turn(NamedTuple):
    """One array on its way back: our path, their name within its part, their shape."""

    ours: str
    theirs: str
    shape: Shape
    layout: Layout


class Export(NamedTuple):
    """A model of ours that diffusers can hold: its configs, its arrays by part.

    words: the tokenizer's files by name, if it has one.
    """

    pipeline: Pipeline
    configs: Mapping[str, Mapping[str, Any]]
    parts: Mapping[str, Sequence[Turn]]
    weights: Weights
    words: Mapping[str, str]

    def dtype_of(self, turn: Turn) -> str:
        """The type that the array is stored in."""
        return dtype_of(self.weights.kinds[turn.ours])

    def arrays(
        self, part: str, dtype: Dtype | None, progress: Progress
    ) -> Iterator[tuple[Turn, np.ndarray]]:
        """The arrays of a part as diffusers has them. Raises Refusal for one that is not finite."""
        for turns in self._handfuls(part):
            held = self.weights.read([turn.ours for turn in turns])
            for turn in turns:
                array = held[turn.ours]
                if count_nonfinite(array):
                    raise Refusal(f"{turn.ours} has values that are NaN or infinite")
                progress(array.nbytes)
                array = turn.layout.take(array, turn.shape)
                yield turn, in_dtype(array, dtype or self.dtype_of(turn), turn.ours)

    def entries(self, part: str, dtype: Dtype | None) -> dict[str, Entry]:
        """The tensors of a part, as its file announces them."""
        turns = self.parts[part]
        return {t.theirs: Entry(t.shape, dtype or self.dtype_of(t)) for t in turns}

    @property
    def stored_bytes(self) -> int:
        turns = (turn for turns in self.parts.values() for turn in turns)
        return sum(prod(t.shape) * DTYPES[self.dtype_of(t)].itemsize for t in turns)

    def file_bytes(self, dtype: Dtype | None) -> int:
        """Bytes of the files of weights that `write` makes."""
        return sum(safetensors_writer.size(self.entries(part, dtype)) for part in self.parts)

    def _handfuls(self, part: str) -> Iterator[list[Turn]]:
        turns: list[Turn] = []
        for turn in self.parts[part]:
            turns.append(turn)
            if sum(prod(t.shape) for t in turns) * 4 > AT_ONCE:
                yield turns
                turns = []
        if turns:
            yield turns


def opened(config: Described, weights: Weights) -> Export:
    """A model and its weights, as diffusers has them.

    Raises Refusal for a model that diffusers does not know, and weights that are not those of it.
    """
    pipeline = pipelines.of(config)
    configs = pipeline.configs(config)
    ours = shapes_of(config.model)
    found = {name: shape_of(kind) for name, kind in weights.kinds.items()}
    if wrong := [name for name in sorted({*ours, *found}) if ours.get(name) != found.get(name)]:
        raise Refusal(f"the weights are not those of the model's config: {', '.join(wrong)}")
    parts: dict[str, list[Turn]] = {part: [] for part in pipeline.parts}
    for path, shape in ours.items():
        named = pipeline.table.theirs(path)
        assert named is not None, f"no rule speaks of {path}"
        part, _, name = named.name.partition(".")
        parts[part].append(Turn(path, name, named.how.theirs(shape), named.how))
    parts["vae"] += _passed_over(parts["vae"], configs["vae"])
    text = config.model.text
    clip = isinstance(text, CLIPTextEncoderConfig)
    words = tokenizer.texts(Path(text.tokenizer)) if clip else {}
    return Export(pipeline, configs, parts, weights, words)


def _passed_over(turns: Sequence[Turn], config: Mapping[str, Any]) -> Iterator[Turn]:
    """Blocks that diffusers makes and never runs, filled with those before them.

    They are past the second in the middle of a temporal decoder of more than two layers.
    """
    if config["_class_name"] == architecture.TEMPORAL_VAE:
        second = "decoder.mid_block.resnets.1."
        for index in range(2, config["layers_per_block"]):
            for turn in turns:
                if turn.theirs.startswith(second):
                    name = turn.theirs.replace("resnets.1.", f"resnets.{index}.")
                    yield turn._replace(theirs=name)


def write(
    found: Export,
    output: Path,
    *,
    dtype: Dtype | None,
    variant: str | None,
    progress: Progress,
) -> None:
    """Write the diffusers folder, all or nothing.

    dtype: None is the type that the model is stored in. variant: named in the weights' files, as
    diffusers' from_pretrained(variant=…) expects.
    """
    check_new(output)
    output = output.absolute()
    draft = output.with_name(f".{output.name}.saving")
    with storage.one_line(f"the folder could not be written in {output}"):
        try:
            shutil.rmtree(draft, ignore_errors=True)
            for name, text in _texts(found).items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_text(text, encoding="utf-8")
            for part in found.parts:
                safetensors_writer.write(
                    draft / part / file_name(part, variant),
                    found.entries(part, dtype),
                    (array for _, array in found.arrays(part, dtype, progress)),
                )
            draft.rename(output)
            manifest.force(output.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def file_name(part: str, variant: str | None) -> str:
    return f"{STEMS[part]}.{f'{variant}.' if variant else ''}safetensors"


def _texts(found: Export) -> dict[str, str]:
    """All files of the folder but the weights, by name."""
    version = {"_diffusers_version": DIFFUSERS}
    files: dict[str, Mapping[str, Any]] = {
        CONFIG_FILES[part]: {**config, **({} if _of_transformers(config) else version)}
        for part, config in found.configs.items()
    }
    if "image_encoder" in found.configs:
        files[PREPROCESSOR] = _preprocessor(found.configs["image_encoder"]["image_size"])
    classes = {part: _class(config) for part, config in found.configs.items()}
    name = {"_class_name": found.pipeline.name}
    files[INDEX] = {**name, **version, **found.pipeline.others, **classes}
    texts = {n: json.dumps(held, indent=2, sort_keys=True) + "\n" for n, held in files.items()}
    return texts | {f"{TOKENIZER}/{name}": text for name, text in found.words.items()}


def _of_transformers(config: Mapping[str, Any]) -> bool:
    return "architectures" in config


def _class(config: Mapping[str, Any]) -> list[str]:
    """The library and the class of a part, as the index has them."""
    if _of_transformers(config):
        return ["transformers", *config["architectures"]]
    return ["diffusers", config["_class_name"]]


def _preprocessor(size: int) -> dict[str, Any]:
    return {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": list(CLIP_MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(CLIP_STD),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": size},
    }
