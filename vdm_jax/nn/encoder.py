"""The encoder layer of vision and text transformers: attention and a perceptron, each normed first.

The pre-norm form of Vaswani et al. 2017 that CLIP uses for pictures and for text (Radford et al.
2021, section 2.4), and VideoMAE for videos.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.attention import attend
from vdm_jax.nn.init import lecun_normal

EPS = 1e-5  # of the layer norms, where nothing else is said: CLIP's

Projection = Literal["to_q", "to_k", "to_v"]
Activation = Literal["gelu", "quick_gelu"]
"""gelu: x Phi(x), exactly (OpenCLIP); quick_gelu: x sigmoid(1.702 x) (OpenAI's own weights)."""


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x sigmoid(1.702 x): an approximation of gelu (Hendrycks and Gimpel 2016, section 2)."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": partial(jax.nn.gelu, approximate=False), "quick_gelu": quick_gelu}


def check_sizes(width: int, heads: int, **sizes: int) -> None:
    """Refuse an encoder whose heads do not divide its width, or with a size below 1."""
    for name, size in {"width": width, "heads": heads, **sizes}.items():
        if size < 1:
            raise Refusal(f"{name} is {size}; it must be at least 1")
    if width % heads:
        raise Refusal(f"a width of {width} does not divide into {heads} heads")


def layer_norm(width: int, *, eps: float = EPS, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm over the width, with statistics in float32; the result in `dtype`."""
    return nnx.LayerNorm(width, epsilon=eps, dtype=dtype, rngs=rngs)


class SelfAttention(nnx.Module):
    """Tokens attend to each other; all four projections have a bias, but not those of `plain`.

    plain: "to_k" where keys have none, as in BEiT; it would move all scores of a query alike.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        plain: Sequence[Projection] = (),
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        split = (heads, width // heads)
        linear = partial(nnx.LinearGeneral, kernel_init=lecun_normal, dtype=dtype, rngs=rngs)
        column, row = ("embed", "heads", None), ("heads", None, "embed")
        self.to_q, self.to_k, self.to_v = (
            linear(
                width, split, use_bias=name not in plain, kernel_metadata={"out_sharding": column}
            )
            for name in get_args(Projection)
        )
        self.to_out = linear(split, width, axis=(-2, -1), kernel_metadata={"out_sharding": row})

    def __call__(
        self, x: Float[Array, "b l d"], mask: Bool[Array, "l l"] | Bool[Array, "b l l"] | None
    ) -> Float[Array, "b l d"]:
        """`mask` is for all texts, or for each its own."""
        q, k, v = (project(x).swapaxes(1, 2) for project in (self.to_q, self.to_k, self.to_v))
        mask = None if mask is None else mask.reshape(-1, *mask.shape[-2:])
        return self.to_out(attend(q, k, v, mask=mask).swapaxes(1, 2))


class EncoderLayer(nnx.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)).

    `mask` is True where a token (row) may look at another (column); None: everywhere.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        *,
        activation: Activation,
        eps: float = EPS,
        plain: Sequence[Projection] = (),
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        linear = partial(nnx.Linear, kernel_init=lecun_normal, dtype=dtype, rngs=rngs)
        self.activation = activation
        self.norm1 = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.attention = SelfAttention(width, heads, plain=plain, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.fc1 = linear(width, hidden, kernel_metadata={"out_sharding": ("embed", "mlp")})
        self.fc2 = linear(hidden, width, kernel_metadata={"out_sharding": ("mlp", "embed")})

    def __call__(
        self, x: Float[Array, "b l d"], mask: Bool[Array, "l l"] | None
    ) -> Float[Array, "b l d"]:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(self.norm2(x))))
