"""CLIP, both towers: how well words fit a picture, as the cosine of their vectors.

Radford et al. 2021 (arXiv:2103.00020), section 2.3: a picture's vector is that of
`models.clip_vision`; a text's is that of its end token after the text tower's final norm, times a
matrix. Where they point the same way, the picture shows what the text says.

From the vectors of a generated video come two numbers: how well it shows its caption, and how much
its frames agree.

A model directory of it is made by `python -m vdm_jax.convert.whole_clip`.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float64, Int

from vdm_jax.core.refusal import Refusal
from vdm_jax.models.clip_text import CLIPTextConfig
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.nn.init import lecun_normal, streamed


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Both towers. end: number of the token that ends a text; its place is what is read.

    tokenizer: folder of the tokenizer's files, in a model directory relative to it.
    """

    picture: CLIPVisionConfig
    text: CLIPTextConfig
    end: int
    tokenizer: str = "tokenizer"

    def __post_init__(self) -> None:
        if not 0 <= self.end < self.text.vocabulary:
            raise Refusal(f"end is {self.end}; tokens are numbered 0 to {self.text.vocabulary - 1}")

    def build(self, *, rngs: nnx.Rngs) -> "CLIP":
        return CLIP(self, rngs=streamed(rngs))


class CLIP(nnx.Module):
    """Pictures and texts to vectors of unit length in one space."""

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.picture = config.picture.build(rngs=rngs)
        self.text = config.text.build(rngs=rngs)
        self.projection = nnx.Linear(
            config.text.width,
            config.picture.projection,
            use_bias=False,
            kernel_init=lecun_normal,
            dtype=config.text.dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("embed", "mlp")},
        )

    def pictures(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """One vector for each picture, float32. pixels: square, normalised by CLIP's mean."""
        return _unit(self.picture(pixels))

    def texts(self, ids: Int[Array, "b l"]) -> Float[Array, "b d"]:
        """One vector for each text, float32. ids: of the tokenizer; each row has an end token."""
        tokens = self.text(ids)
        last = jnp.argmax(ids == self.config.end, axis=1)  # the first, where padding is the same
        ends = jnp.take_along_axis(tokens, last[:, None, None], axis=1)[:, 0]
        return _unit(self.projection(ends))


def _unit(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


UNIT = 1e-3
"""How far from 1 the length of a vector may be: that of rounding, not of one left as it was."""


def text_similarity(
    frames: Float[Any, "*batch t d"], text: Float[Any, "*batch d"]
) -> Float64[Any, "*batch"]:
    """CLIPSIM: 100 times the mean cosine of a video's frames and its caption.

    Wu et al. 2021 (arXiv:2104.14806), section 4.2; some papers leave out the factor. Of unit
    vectors. Raises Refusal where a vector is not finite, or not of unit length.
    """
    return 100 * np.einsum("...td,...d->...t", _vectors(frames), _vectors(text)).mean(-1)


def frame_consistency(frames: Float[Any, "*batch t d"]) -> Float64[Any, "*batch"]:
    """The mean cosine of adjacent frames (Esser et al. 2023, arXiv:2302.03011): 1 for a still.

    Of unit vectors. Raises Refusal as `text_similarity` does, and for fewer than two frames.
    """
    x = _vectors(frames)
    if x.shape[-2] < 2:
        raise Refusal(f"frames are compared with the next one; got {x.shape[-2]} of a video")
    return np.einsum("...td,...td->...t", x[..., 1:, :], x[..., :-1, :]).mean(-1)


def _vectors(x: Float[Any, "*batch d"]) -> Float64[np.ndarray, "*batch d"]:
    found = np.asarray(x, np.float64)
    off = np.abs(np.linalg.norm(found, axis=-1) - 1)
    if not (found.size and off.max() <= UNIT):
        raise Refusal(
            f"cosines are of unit vectors, got {found.shape} with lengths up to "
            f"{off.max(initial=0):.3g} from 1 (nan: not finite)"
        )
    return found
