"""Frames at another size by bilinear interpolation, as networks of torch were fed them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bilinear(x: Float[Array, "f h w c"], size: tuple[int, int]) -> Float[Array, "f H W c"]:
    """Each frame at the height and width `size`: a matrix on its rows, another on its columns.

    That of torch.nn.functional.interpolate with mode="bilinear", align_corners=False and a size:
    each new pixel lies at the centre of what it covers and is mixed of the two nearest each way.
    Nothing is averaged where frames get smaller. In float32 whatever the matrix units prefer.
    """
    h, w = x.shape[1:3]
    rows, columns = (jnp.asarray(mixing(n, m, n / m)) for n, m in ((h, size[0]), (w, size[1])))
    precision = jax.lax.Precision.HIGHEST
    x = jnp.einsum("Hh,fhwc->fHwc", rows, x.astype(jnp.float32), precision=precision)
    return jnp.einsum("Ww,fHwc->fHWc", columns, x, precision=precision)


def mixing(before: int, after: int, step: float) -> Float[np.ndarray, "after before"]:
    """What each of `after` points takes of each of `before`; `step` is the distance of two points.

    Places are rounded to float32 as torch rounds them, once, and none lies before the first.
    """
    places = float(np.float32(step)) * (np.arange(after) + 0.5) - 0.5
    places = np.maximum(places.astype(np.float32), 0)
    left = np.minimum(places.astype(int), before - 1)
    share = places - left.astype(np.float32)
    weights = np.zeros((after, before), np.float32)
    np.add.at(weights, (np.arange(after), left), 1 - share)
    np.add.at(weights, (np.arange(after), np.minimum(left + 1, before - 1)), share)
    return weights
