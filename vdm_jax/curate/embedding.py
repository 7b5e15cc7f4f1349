"""CLIP in curation: the vectors of a clip's first, middle and last frame, and of a caption."""

import os
import weakref
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vdm_jax.conditioning import tokenizer
from vdm_jax.conditioning.image import square
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.stage import Clip, Resources
from vdm_jax.curate.weights import CLIP_WEIGHTS
from vdm_jax.metrics.clip import CLIPConfig
from vdm_jax.sample.network import described, filled

MOMENTS = 3
"""Frames of a clip: first, middle and last, as in Stable Video Diffusion's curation."""


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
