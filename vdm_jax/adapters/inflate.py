"""A network of pictures made one of videos, and one of videos given further inputs.

Blattmann et al. 2023 (arXiv:2304.08818), section 3.1; the stages of Stable Video Diffusion
(arXiv:2311.15127, section 4). What both networks have is taken over; what is new begins without a
say, so that at first the network answers as before: each frame as a picture, whatever is told
that it was not told before.

- Layers over time: each ends in a projection that is added to what entered; that begins at zero,
  and so does the embedding of the frame's number. A layer then passes on what it gets, which its
  blend mixes with the same: the identity, but with a gradient for the projections.
- Numbers that were not told before (cond.vec): the last layer of their embedding begins at zero.
- Channels beside the noisy video, further numbers: the rows of the kernel that read them are zero.
- Another stream to attend to, as CLIP's token of a picture after those of a text: every weight is
  taken over, as Stable Video Diffusion does. Both come of the same CLIP, and of the null, zeros,
  either network makes the same. Where the width differs, keys and values are drawn anew.

Stability's own code draws the layers over time like all others; then a network of videos begins
with a worse answer than that of pictures.
"""

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.adapters.trainable import dotted
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.nn.mixing import FrameByFrame

SILENT = (
    "*.resnets.*.time.conv2.*",
    "*.transformers.*.time.*.attn1.to_out.*",
    "*.transformers.*.time.*.attn2.to_out.*",
    "*.transformers.*.time.*.ff.out.*",
    "*.transformers.*.time.*.ff_in.out.*",
    "*.transformers.*.frame_embedding.linear_2.*",
    "add_embedding.linear_2.*",
)
"""The last of what is new: zero where the network before has no such thing."""

GROWN = ("conv_in.kernel", "add_embedding.linear_1.kernel")
"""Kernels whose input may have grown by something at its end."""

CONTEXT = ("*.attn2.to_k.kernel", "*.attn2.to_v.kernel")
"""What reads the context."""


def fits(before: Any, after: Any) -> bool:
    """Whether the network of one config is to be made of that of the other."""
    if not (isinstance(before, SVDUNetConfig) and isinstance(after, SVDUNetConfig)):
        return False
    free = ("in_channels", "vec_features", "context", "context_width", "mixing", "eps", "dtype",
            "remat")  # fmt: skip
    alike = replace(before, **{name: getattr(after, name) for name in free}) == after
    pictures = isinstance(before.mixing, FrameByFrame)
    return (
        alike
        and (pictures or type(before.mixing) is type(after.mixing))
        and before.in_channels <= after.in_channels
        and (before.vec_features or 0) <= (after.vec_features or 0)
    )


def inflated(before: nnx.State, drawn: nnx.State) -> nnx.State:
    """The parameters of a network, from those of one that `fits`.

    drawn: fresh parameters of the result, for what is new, and for the place of each leaf.
    """
    theirs = {path: leaf.get_value() for path, leaf in nnx.to_flat_state(before)}
    return nnx.from_flat_state(
        (path, leaf.replace(_begun(dotted(path), theirs.get(path), leaf.get_value())))
        for path, leaf in nnx.to_flat_state(drawn)
    )


def _begun(name: str, before: Array | None, drawn: Array) -> Array:
    if before is None:
        return jnp.zeros_like(drawn) if _among(name, SILENT) else drawn
    if before.shape == drawn.shape:
        return before.astype(drawn.dtype)
    if _among(name, GROWN):
        return _extended(before, drawn.shape[-2]).astype(drawn.dtype)
    assert _among(name, CONTEXT), name  # as `fits` says
    return drawn


def _extended(kernel: Float[Array, "*window i o"], inputs: int) -> Float[Array, "*window _ o"]:
    """The kernel with rows of zeros for inputs at the end."""
    more = inputs - kernel.shape[-2]
    return jnp.pad(kernel, [*((0, 0),) * (kernel.ndim - 2), (0, more), (0, 0)])


def _among(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
