"""The residual block of a diffusion U-Net, told the noise level of every frame."""

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm_jax.nn.conv import Conv
from vdm_jax.nn.init import lecun_normal
from vdm_jax.nn.norm import GroupNorm


class ResBlock(nnx.Module):
    """norm, SiLU, conv; then norm, FiLM, SiLU, conv; added to the (projected) input.

    Ho et al. 2020 with the scale-and-shift conditioning of Nichol & Dhariwal 2021, section 2.
    The last convolution starts at zero, so that a new block passes its input through.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embed_width: int,
        *,
        groups: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = GroupNorm(in_channels, groups, rngs=rngs)
        self.conv1 = Conv(in_channels, out_channels, dtype=dtype, rngs=rngs)
        self.film = nnx.LinearGeneral(
            embed_width,
            (2, out_channels),
            kernel_init=lecun_normal,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("embed", None, "mlp")},
        )
        self.norm2 = GroupNorm(out_channels, groups, rngs=rngs)
        self.conv2 = Conv(
            out_channels,
            out_channels,
            kernel_init=nnx.initializers.zeros,
            dtype=dtype,
            rngs=rngs,
        )
        self.shortcut = nnx.data(
            None
            if in_channels == out_channels
            else nnx.Linear(
                in_channels,
                out_channels,
                kernel_init=lecun_normal,
                dtype=dtype,
                rngs=rngs,
                kernel_metadata={"out_sharding": ("conv_in", "conv_out")},
            )
        )

    def __call__(
        self, x: Float[Array, "f h w i"], embed: Float[Array, "f d"]
    ) -> Float[Array, "f h w o"]:
        hidden = self.conv1(self.norm1.silu(x))
        hidden = self.conv2(self.norm2.film_silu(hidden, self.film(embed)))
        return hidden + (x if self.shortcut is None else self.shortcut(x))
