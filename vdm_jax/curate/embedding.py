"""CLIP in curation: the vectors of a clip's first, middle and last frame, and of a caption."""

import os
import weakref
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8
from PIL import Image

from vdm_jax.conditioning import tokenizer
from vdm_jax.conditioning.image import CLIP_MEAN, CLIP_STD
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import build_abstract
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.stage import Clip, Resources
from vdm_jax.curate.weights import CLIP_WEIGHTS
from vdm_jax.metrics.clip import CLIPConfig

MOMENTS = 3
"""Frames of a clip: first, middle and last, as in Stable Video Diffusion's curation."""

Part = TypeVar("Part")


def described(directory: Path, wanted: type[Part], what: str) -> Part:
    """The config of a model directory. Raises Refusal where it is of something else."""
    if not directory.is_dir() or not (directory / checkpoint.CONFIG).is_file():
        raise Refusal(f"{directory} is no model directory; wanted is {what}")
    try:
        config = configs.from_json(checkpoint.load_config(directory))
    except Refusal as refusal:  # as in the folder that it is made of
        raise Refusal(f"{directory}: {refusal}; wanted is {what}") from None
    if not isinstance(config, wanted):
        raise Refusal(f"{directory} holds a {type(config).__name__}; wanted is {what}")
    checkpoint.check_weights(directory)
    return config


def filled(directory: Path, config: Any) -> tuple[Any, nnx.State]:
    """The module of a model directory, as `nnx.split` has it, on the first device."""
    graphdef, shapes = nnx.split(build_abstract(lambda: config.build(rngs=nnx.Rngs(0))), nnx.Param)
    return graphdef, checkpoint.load_weights(directory, shapes)


def taken(directory: Path, gpus: float) -> Resources:
    """What a worker takes that reads these weights: twice their size while they are read."""
    weights = (directory / "weights").rglob("*")
    size = sum(file.stat().st_size for file in weights if file.is_file())
    return Resources(gpus=gpus, gigabytes=1.5 + 2 * size / 2**30)


@cache
def embedder(directory: Path, gpus: float) -> "Embedder":
    """The one of this worker, whichever stages ask for it."""
    return Embedder(directory, gpus)


class Embedder:
    """CLIP of a model directory, its weights read when the first clip comes.

    gpus: 0 computes on the CPU, for many workers that share a machine; else on the accelerator.
    """

    def __init__(self, directory: Path, gpus: float):
        self._directory, self._gpus = directory, gpus
        self._last: Callable[[], Any] = lambda: None
        self.text = lru_cache(maxsize=64)(self._text)  # all clips of a file share its caption

    def check(self) -> None:
        """Refuse what is no CLIP, or has another's tokenizer; reads no weights."""
        config = self.config
        begin_end = tokenizer.tokenize(self._directory / config.tokenizer, [""], 3)
        if begin_end[0, 1] != config.end:
            raise Refusal(
                f"{self._directory}: its tokenizer ends texts with token {begin_end[0, 1]}, its "
                f"config says {config.end}"
            )

    @property
    def config(self) -> CLIPConfig:
        return described(self._directory, CLIPConfig, CLIP_WEIGHTS)

    def of(self, clip: Clip) -> Float[np.ndarray, "3 d"]:
        """Unit vectors of its first, middle and last frame; those of the last clip are kept."""
        if self._last() is not clip.frames:
            self._vectors = self._pictures(clip.spread(MOMENTS))
            self._last = weakref.ref(clip.frames)
        return self._vectors

    def _pictures(self, frames: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        config, towers = self._loaded
        size = config.picture.image_size
        return np.asarray(towers["pictures"](np.stack([square(frame, size) for frame in frames])))

    def _text(self, text: str) -> Float[np.ndarray, " d"]:
        config, towers = self._loaded
        folder = self._directory / config.tokenizer
        ids = tokenizer.tokenize(folder, [text], config.text.max_tokens)
        return np.asarray(towers["texts"](ids))[0]

    @property
    def _loaded(self) -> tuple[CLIPConfig, dict[str, Callable[[Any], Array]]]:
        return _loaded(self._directory, self._gpus)


@cache
def _loaded(directory: Path, gpus: float) -> tuple[CLIPConfig, dict[str, Callable[[Any], Array]]]:
    """The config, and both towers as functions of pixels and of token numbers."""
    computing_on(gpus)
    config = described(directory, CLIPConfig, CLIP_WEIGHTS)
    graphdef, params = filled(directory, config)

    def run(tower: str, params: nnx.State, x: Array) -> Array:
        return getattr(nnx.merge(graphdef, params), tower)(x)

    towers = {name: jax.jit(partial(run, name)) for name in ("pictures", "texts")}
    return config, {name: partial(tower, params) for name, tower in towers.items()}


def computing_on(gpus: float) -> None:
    """Before JAX looks for devices: none but the CPU, or an accelerator shared with others."""
    if gpus:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    else:
        jax.config.update("jax_platforms", "cpu")


def square(picture: UInt8[np.ndarray, "h w 3"], size: int) -> Float[np.ndarray, "{size} {size} 3"]:
    """The middle of a picture as CLIP was trained on it; float32.

    The shorter side is scaled to `size` by Pillow's bicubic filter, the longer one cut, and what
    remains normalised by CLIP's mean and deviation.
    """
    h, w, _ = picture.shape
    height, width = (size, size * w // h) if h < w else (size * h // w, size)
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    middle = np.asarray(small)[top : top + size, left : left + size]
    return ((middle / 255 - CLIP_MEAN) / CLIP_STD).astype(np.float32)
