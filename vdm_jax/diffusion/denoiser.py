"""A denoiser: a network seen through its parameterisation, from noisy video to clean."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float, PyTree

from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.precond import Precond


@runtime_checkable
class Network(Protocol):
    """What a model computes: (scaled z, c_noise, cond) -> F, of the shape of z."""

    def __call__(
        self, z: Float[Array, "b t h w c"], c_noise: Float[Array, "b t"], cond: PyTree, /
    ) -> Float[Array, "b t h w c"]: ...


@runtime_checkable
class Denoiser(Protocol):
    """(z, level, cond) -> the expected clean video."""

    def __call__(
        self, z: Float[Array, "b t h w c"], level: Level, cond: PyTree, /
    ) -> Float[Array, "b t h w c"]: ...


def denoiser(network: Network, precond: Precond) -> Denoiser:
    """x0 = c_skip * z + c_out * F(c_in * z, c_noise), in the dtype of z; level may differ by frame.

    The network may compute in a lower precision than z.
    """

    def denoise(
        z: Float[Array, "b t h w c"], level: Level, cond: PyTree
    ) -> Float[Array, "b t h w c"]:
        scalings = precond.scalings(level.frames(z))
        c_skip, c_out, c_in = (part[..., None, None, None] for part in scalings[:3])
        output = network((c_in * z).astype(z.dtype), scalings.c_noise, cond)
        return (c_skip * z + c_out * output.astype(z.dtype)).astype(z.dtype)

    return denoise
