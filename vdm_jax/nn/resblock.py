"""The residual blocks of diffusion U-Nets, told the noise level of every frame."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vdm_jax.nn.conv import Conv, framewise
from vdm_jax.nn.init import lecun_normal
from vdm_jax.nn.norm import GroupNorm
from vdm_jax.nn.remat import KEEP_ALL, Remat


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


class ResnetBlock(nnx.Module):
    """norm, SiLU, conv, the level added; then norm, SiLU, conv; added to the (projected) input.

    Ho et al. 2020, appendix B. The last convolution starts at zero, so that a new block passes
    its input through. With kernel size (3, 1) on videos "b t (h w) c" it is a block in time.

    embed_width: width of the vector that tells the level; None: there is none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int | tuple[int, int] = 3,
        groups: int = 32,
        eps: float,
        embed_width: int | None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = GroupNorm(in_channels, groups, eps=eps, rngs=rngs)
        self.conv1 = Conv(
            in_channels, out_channels, kernel_size=kernel_size, dtype=dtype, rngs=rngs
        )
        self.time_emb_proj = nnx.data(None)
        if embed_width is not None:
            self.time_emb_proj = _linear(embed_width, out_channels, ("embed", "mlp"), dtype, rngs)
        self.norm2 = GroupNorm(out_channels, groups, eps=eps, rngs=rngs)
        self.conv2 = Conv(
            out_channels,
            out_channels,
            kernel_size=kernel_size,
            kernel_init=nnx.initializers.zeros,
            dtype=dtype,
            rngs=rngs,
        )
        self.conv_shortcut = nnx.data(None)
        if in_channels != out_channels:
            axes = ("conv_in", "conv_out")
            self.conv_shortcut = _linear(in_channels, out_channels, axes, dtype, rngs)

    def __call__(
        self, x: Float[Array, "f h w i"], embed: Float[Array, "f #h 1 d"] | None
    ) -> Float[Array, "f h w o"]:
        hidden = self.conv1(self.norm1.silu(x))
        if self.time_emb_proj is not None:
            assert embed is not None, "the block was made for an embedding"
            hidden = hidden + self.time_emb_proj(nnx.silu(embed))
        hidden = self.conv2(self.norm2.silu(hidden))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


def _linear(in_width, out_width, axes, dtype, rngs):
    return nnx.Linear(
        in_width,
        out_width,
        kernel_init=lecun_normal,
        dtype=dtype,
        rngs=rngs,
        kernel_metadata={"out_sharding": axes},
    )


class Blend(nnx.Module):
    """a * space + (1 - a) * time with one learned a = sigmoid(mix) for all channels.

    Blattmann et al. 2023 (arXiv:2304.08818), section 3.1. A picture is not a moment of a video:
    there a = 1.
    """

    def __init__(self, initial: float = 0.5):
        self.mix = nnx.Param(jnp.full((1,), initial))

    def __call__(
        self,
        space: Float[Array, "b t *place c"],
        time: Float[Array, "b t *place c"],
        image_only: Bool[Array, "b t"] | None,
    ) -> Float[Array, "b t *place c"]:
        a = jax.nn.sigmoid(self.mix[...].astype(jnp.float32)).reshape((1,) * space.ndim)
        if image_only is not None:
            single = image_only.reshape(*image_only.shape, *(1,) * (space.ndim - 2))
            a = jnp.where(single, 1.0, a)
        a = a.astype(space.dtype)
        return a * space + (1 - a) * time


class SpaceResBlock(nnx.Module):
    """A residual block over each frame."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embed_width: int | None,
        groups: int = 32,
        eps: float,
        remat: Remat = KEEP_ALL,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        sizes = {"groups": groups, "embed_width": embed_width, "dtype": dtype, "rngs": rngs}
        self.remat = remat
        self.space = ResnetBlock(in_channels, out_channels, eps=eps, **sizes)

    def __call__(
        self,
        x: Float[Array, "b t h w i"],
        embed: Float[Array, "b t d"] | None,
        image_only: Bool[Array, "b t"] | None,
    ) -> Float[Array, "b t h w o"]:
        """image_only: without meaning here, where every frame is by itself."""
        del image_only
        return self._framewise(x, embed)

    def _framewise(
        self, x: Float[Array, "b t h w i"], embed: Float[Array, "b t d"] | None
    ) -> Float[Array, "b t h w o"]:
        layer = self.remat.layer(self.space.__call__)
        if embed is None:
            return framewise(lambda x: layer(x, None), x)
        return framewise(layer, x, embed[:, :, None, None])


class SpaceTimeResBlock(SpaceResBlock):
    """A residual block over each frame, one over the frames of each pixel, and their blend.

    The group norm of the second pools over all frames, so that they reach each other through it
    as through its convolutions; pictures come out as the first block leaves them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embed_width: int | None,
        groups: int = 32,
        eps: float,
        time_eps: float,
        remat: Remat = KEEP_ALL,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        sizes = {"groups": groups, "embed_width": embed_width, "dtype": dtype, "rngs": rngs}
        super().__init__(in_channels, out_channels, eps=eps, remat=remat, **sizes)
        self.time = ResnetBlock(
            out_channels, out_channels, kernel_size=(3, 1), eps=time_eps, **sizes
        )
        self.blend = Blend()

    def __call__(
        self,
        x: Float[Array, "b t h w i"],
        embed: Float[Array, "b t d"] | None,
        image_only: Bool[Array, "b t"] | None,
    ) -> Float[Array, "b t h w o"]:
        b, t, h, w, _ = x.shape
        of_row = None if embed is None else embed[:, :, None]
        space = self._framewise(x, embed).reshape(b, t, h * w, -1)
        time = self.remat.layer(self.time.__call__)(space, of_row)
        return self.blend(space, time, image_only).reshape(b, t, h, w, -1)
