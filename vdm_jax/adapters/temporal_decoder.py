"""An autoencoder of pictures made one of clips: blocks over time join its decoder.

Blattmann et al. 2023 (arXiv:2304.08818), section 3.1.1, and Stable Video Diffusion's (appendix D of
arXiv:2311.15127). At first every frame is decoded as before: new blocks pass through what they
get, and the last convolution over time takes a frame for itself. The linear map before the picture
decoder, which the temporal one has not, becomes a part of its first convolution. That is the same
function but at the outermost latents, where the zeros around a frame do not pass through the map.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.models.vae import ImageDecoderConfig, TemporalDecoderConfig, VAEConfig

Path = tuple


def fits(image: object, clips: object) -> bool:
    """Whether one is to be made of the other."""
    return (
        isinstance(image, VAEConfig)
        and isinstance(clips, VAEConfig)
        and isinstance(image.decoder, ImageDecoderConfig)
        and isinstance(clips.decoder, TemporalDecoderConfig)
    )


def inflated(image: nnx.State, drawn: nnx.State) -> nnx.State:
    """The parameters of a VAE with a temporal decoder, from those with a picture decoder.

    drawn: fresh parameters of the result: its blocks over time stay as they are, and its sharding.
    """
    theirs = {path: leaf.get_value() for path, leaf in nnx.to_flat_state(image)}
    _fold_first(theirs)
    made = []
    for path, leaf in nnx.to_flat_state(drawn):
        if path[:2] == ("decoder", "time_conv_out"):
            value = _identity(leaf.get_value()) if path[-1] == "kernel" else 0 * leaf.get_value()
        else:
            value = theirs.get(tuple(step for step in path if step != "space"), leaf.get_value())
        made.append((path, leaf.replace(value.astype(leaf.get_value().dtype))))
    return nnx.from_flat_state(made)


def _fold_first(weights: dict[Path, Array]) -> None:
    """The map before the decoder becomes a part of the decoder's first convolution."""
    matrix, shift = (weights.pop(("post_quant", name)) for name in ("kernel", "bias"))
    kernel = weights["decoder", "conv_in", "kernel"]
    weights["decoder", "conv_in", "kernel"] = jnp.einsum("im,hwmo->hwio", matrix, kernel)
    weights["decoder", "conv_in", "bias"] += jnp.einsum("m,hwmo->o", shift, kernel)


def _identity(kernel: Float[Array, "t 1 c c"]) -> Float[Array, "t 1 c c"]:
    """What takes of three frames the middle one."""
    return jnp.zeros_like(kernel).at[kernel.shape[0] // 2, 0].set(jnp.eye(kernel.shape[-1]))
