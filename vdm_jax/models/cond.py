"""Cond: everything a network may be conditioned on, as one fixed pytree of ports.

A port is None (the model has no such input) or holds a value; each value has a null, which
`conditioning.drop` writes during training for classifier-free guidance:
tokens: zeros with a mask of False · vec: zeros · concat: zeros.
"""

from dataclasses import dataclass, field

import jax
from jaxtyping import Array, Bool, Float

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
