"""CLIP's vision transformer: a picture to one vector in the space that it shares with text.

Radford et al. 2021 (arXiv:2103.00020), section 2.4; `CLIP_VIT_H` is the ViT-H/14 that OpenCLIP
trained on LAION-2B (Cherti et al. 2022, arXiv:2212.07143), whose picture vector steers Stable
Video Diffusion. A picture is cut into square patches; each becomes a token by one linear map, and
a learned class token stands before them. After a norm, the encoder layers and a norm of the class
token alone, that token is projected: the result. It is not scaled to unit length.

Where it differs from the original: nothing but the layout. Patches are cut by a reshape, so that
the strided convolution is one matrix product, and heads are an axis of their own.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.conv import space_to_depth
from vdm_jax.nn.encoder import Activation, EncoderLayer, check_sizes, layer_norm
from vdm_jax.nn.init import lecun_normal, normal, streamed


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig:
    """Shape of the tower.

    hidden: width of the perceptron in each layer.
    image_size: height and width of a picture, a multiple of patch_size.
    projection: width of the result.
    dtype: what the layers compute in; the norms compute in float32.
    """

    width: int = 1280
    hidden: int = 5120
    layers: int = 32
    heads: int = 16
    patch_size: int = 14
    image_size: int = 224
    projection: int = 1024
    activation: Activation = "gelu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_sizes(
            self.width,
            self.heads,
            hidden=self.hidden,
            layers=self.layers,
            patch_size=self.patch_size,
            image_size=self.image_size,
            projection=self.projection,
        )
        if self.image_size % self.patch_size:
            raise Refusal(
                f"a picture of {self.image_size} pixels does not divide into patches of "
                f"{self.patch_size}"
            )

    @property
    def num_tokens(self) -> int:
        """The class token and one for each patch."""
        return 1 + (self.image_size // self.patch_size) ** 2

    def build(self, *, rngs: nnx.Rngs) -> "CLIPVision":
        return CLIPVision(self, rngs=streamed(rngs))


class Patches(nnx.Module):
    """Each square of pixels times one matrix: a convolution whose stride is its kernel's size."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        size = config.patch_size
        self.dtype = config.dtype
        self.kernel = nnx.Param(
            lecun_normal(rngs.params(), (size, size, 3, config.width)),
            out_sharding=(None, None, None, "conv_out"),
        )

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b l d"]:
        kernel = self.kernel[...].astype(self.dtype)
        squares = space_to_depth(pixels.astype(self.dtype), kernel.shape[0])
        tokens = squares @ kernel.reshape(-1, kernel.shape[-1])
        return tokens.reshape(len(pixels), -1, kernel.shape[-1])


class CLIPVision(nnx.Module):
    """Normalised pixels -> the picture's vector; see `CLIPVisionConfig`."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.config = config
        self.patch = Patches(config, rngs=rngs)
        self.class_embedding = nnx.Param(
            normal(width**-0.5)(rngs.params(), (width,)), out_sharding=(None,)
        )
        self.position_embedding = nnx.Param(
            normal(width**-0.5)(rngs.params(), (config.num_tokens, width)),
            out_sharding=(None, "embed"),
        )
        self.pre_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.layers = nnx.List(
            EncoderLayer(
                width,
                config.hidden,
                config.heads,
                activation=config.activation,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in range(config.layers)
        )
        self.post_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.projection = nnx.Linear(
            width,
            config.projection,
            use_bias=False,
            kernel_init=lecun_normal,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("embed", "mlp")},
        )

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b projection"]:
        """One vector for each picture, in `config.dtype`.

        pixels: square pictures of `config.image_size`, with CLIP's mean taken off and divided by
            its standard deviation (`conditioning.image.clip_pixels`).
        """
        _check(self.config, pixels)
        patches = self.patch(pixels)
        b, _, width = patches.shape
        first = self.class_embedding[...].astype(patches.dtype)
        first = jnp.broadcast_to(first.reshape(1, 1, width), (b, 1, width))
        x = jnp.concatenate([first, patches], axis=1)
        x = self.pre_norm(x + self.position_embedding[...].astype(x.dtype)[None])
        for layer in self.layers:
            x = layer(x, None)
        return self.projection(self.post_norm(x[:, 0]))


def _check(config, pixels):
    size = config.image_size
    if pixels.shape[1:3] != (size, size):
        h, w = pixels.shape[1:3]
        raise Refusal(f"pictures are {h}x{w}; this image encoder takes {size}x{size}")


CLIP_VIT_H = CLIPVisionConfig()
"""OpenCLIP ViT-H/14, LAION-2B: the image encoder of Stable Video Diffusion; 632,076,800 weights."""
