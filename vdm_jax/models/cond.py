"""Cond: everything a network may be conditioned on, as one fixed pytree of ports.

A port is None (the model has no such input) or holds a value; each value has a null, which
`conditioning.drop` writes during training for classifier-free guidance:
tokens: zeros with a mask of False · vec: zeros · concat: zeros.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.core.refusal import Refusal


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """One stream of context tokens, of a video "b l d" or of each of its frames "b t l d".

    `mask` is True where a token is real; all False is the null.
    """

    embedding: Float[Array, "b *t l d"]
    mask: Bool[Array, "b *t l"]

    def by_frame(self, num_frames: int) -> "Tokens":
        """The same with an axis of frames, "b f l d": f is num_frames, or 1 where all share them.

        Raises:
            Refusal: if the tokens are those of another number of frames.
        """
        if self.mask.ndim == 2:
            return Tokens(self.embedding[:, None], self.mask[:, None])
        if self.mask.shape[1] not in (1, num_frames):
            raise Refusal(f"tokens are for {self.mask.shape[1]} frames; the video has {num_frames}")
        return self


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cond:
    """The conditioning ports of every network.

    tokens: named streams that are attended to or pooled ("text", "image", ...), of the whole video
        or of each frame.
    vec: features of each frame, added to its level embedding (time, frame rate, motion, ...).
    concat: channels appended to the noisy input, frame by frame (a known picture, its mask).
    image_only: True for frames that are single pictures beside a video (joint image-video
        training, Ho et al. 2022, section 3): they mix with no other frame in time.
    """

    tokens: dict[str, Tokens] = field(default_factory=dict)
    vec: Float[Array, "b t d"] | None = None
    concat: Float[Array, "b t h w k"] | None = None
    image_only: Bool[Array, "b t"] | None = None

    def beside(self, z: Float[Array, "b t h w c"], channels: int) -> Float[Array, "b t h w _"]:
        """The noisy video with the concat port behind it, zeros where that is absent."""
        if not channels:
            return z
        if self.concat is None:
            return jnp.pad(z, ((0, 0),) * 4 + ((0, channels),))
        return jnp.concatenate([z, self.concat.astype(z.dtype)], axis=-1)


def frames_of(cond: Cond, frames: Int[Array, " n"]) -> Cond:
    """The ports of some frames of a video, by number; what belongs to all of it stays."""

    def some(port: Array | None) -> Array | None:
        return None if port is None else port[:, frames]

    return replace(
        cond,
        tokens={name: _tokens_of(tokens, frames) for name, tokens in cond.tokens.items()},
        vec=some(cond.vec),
        concat=some(cond.concat),
        image_only=some(cond.image_only),
    )


def region_of(
    cond: Cond, corner: tuple[Int[Array, ""], Int[Array, ""]], size: tuple[int, int]
) -> Cond:
    """The ports of a part of every frame, by its first row and column and its rows and columns."""
    if cond.concat is None:
        return cond
    top, left = corner
    b, t, _, _, c = cond.concat.shape
    part = jax.lax.dynamic_slice(cond.concat, (0, 0, top, left, 0), (b, t, *size, c))
    return replace(cond, concat=part)


def _tokens_of(tokens: Tokens, frames: Int[Array, " n"]) -> Tokens:
    if tokens.mask.ndim == 2:  # all frames share them
        return tokens
    return Tokens(tokens.embedding[:, frames], tokens.mask[:, frames])
