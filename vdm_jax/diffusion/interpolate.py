"""The ways from one array to another: straight for conditions, on the sphere for noise.

Unit noise of many dimensions lies near a sphere. The straight way between two draws passes inside
of it, where no draw lies and a model paints grey; the way of `slerp` stays on it (Shoemake 1985,
"Animating rotation with quaternion curves"; White 2016, arXiv:1609.04468, section 2.1).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

PARALLEL = 0.9995
"""|cos| of an angle above which the sphere's way is the straight one."""

Share = float | int | Float[Array, ""]


def lerp(
    start: Float[Array, "*shape"], end: Float[Array, "*shape"], t: Share
) -> Float[Array, "*shape"]:
    """The straight way: `start` at t = 0 and `end` at t = 1, to the bit."""
    return _with_ends((1 - t) * _wide(start) + t * _wide(end), start, end, t)


def slerp(
    start: Float[Array, "*shape"], end: Float[Array, "*shape"], t: Share
) -> Float[Array, "*shape"]:
    """The way on the sphere: `start` at t = 0 and `end` at t = 1, to the bit.

    The angle is that of the two arrays as single vectors. Equal norms are kept, and the angle from
    `start` grows evenly. Nearly parallel arrays, or opposite ones (which have no single way on the
    sphere), are joined by `lerp`.
    """
    a, b = _wide(start), _wide(end)
    lengths = jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel())
    cos = jnp.vdot(a, b) / jnp.where(lengths > 0, lengths, 1.0)
    straight = (jnp.abs(cos) > PARALLEL) | (lengths == 0)
    angle = jnp.arccos(jnp.where(straight, 0.0, cos))
    share = [jnp.sin((1 - t) * angle) / jnp.sin(angle), jnp.sin(t * angle) / jnp.sin(angle)]
    first, second = jnp.where(straight, jnp.stack([1.0 - t, 1.0 * t]), jnp.stack(share))
    return _with_ends(first * a + second * b, start, end, t)


def _wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _with_ends(
    between: Float[Array, "*shape"],
    start: Float[Array, "*shape"],
    end: Float[Array, "*shape"],
    t: Share,
) -> Float[Array, "*shape"]:
    return jnp.where(t == 0, start, jnp.where(t == 1, end, between.astype(start.dtype)))
