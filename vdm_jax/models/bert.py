"""BERT: token numbers to one vector for each token, of its whole text.

Devlin et al. 2018 (arXiv:1810.04805), section 3: the transformer encoder of Vaswani et al. 2017
(arXiv:1706.03762) as it was, each sum normed after it is made. A token sees all others of its text.
The result is what the last layer says of every token; the pooled vector of next-sentence prediction
is not made here.

`MINILM_L6` is all-MiniLM-L6-v2: MiniLM's student of 6 layers and 384 features (Wang et al. 2020,
arXiv:2002.10957), tuned so that the mean over a sentence's tokens says what it means (Reimers and
Gurevych 2019, arXiv:1908.10084).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.encoder import ACTIVATIONS, SelfAttention, check_sizes, layer_norm
from vdm_jax.nn.init import lecun_normal, normal, streamed

EPS = 1e-12  # of the layer norms


@dataclass(frozen=True, kw_only=True)
class BERTConfig:
    """Shape of the encoder.

    hidden: width of the perceptron in each layer.
    max_tokens: positions that are known, begin and end included.
    types: parts of a text that are told apart; texts of one part are all of the first.
    dtype: what the layers compute in; the norms compute in float32.
    """

    vocabulary: int = 30522
    width: int = 384
    hidden: int = 1536
    layers: int = 6
    heads: int = 12
    max_tokens: int = 512
    types: int = 2
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_sizes(
            self.width,
            self.heads,
            hidden=self.hidden,
            layers=self.layers,
            vocabulary=self.vocabulary,
            max_tokens=self.max_tokens,
            types=self.types,
        )

    def build(self, *, rngs: nnx.Rngs) -> "BERT":
        return BERT(self, rngs=streamed(rngs))


class BERTLayer(nnx.Module):
    """norm(x + attention(x)), then norm(x + perceptron(x))."""

    def __init__(self, width: int, hidden: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, kernel_init=lecun_normal, dtype=dtype, rngs=rngs)
        self.attention = SelfAttention(width, heads, dtype=dtype, rngs=rngs)
        self.norm1 = layer_norm(width, eps=EPS, dtype=dtype, rngs=rngs)
        self.fc1 = linear(width, hidden, kernel_metadata={"out_sharding": ("embed", "mlp")})
        self.fc2 = linear(hidden, width, kernel_metadata={"out_sharding": ("mlp", "embed")})
        self.norm2 = layer_norm(width, eps=EPS, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b l d"], seen: Bool[Array, "b l l"]
    ) -> Float[Array, "b l d"]:
        x = self.norm1(x + self.attention(x, seen))
        return self.norm2(x + self.fc2(ACTIVATIONS["gelu"](self.fc1(x))))


class BERT(nnx.Module):
    """Token numbers -> a vector for each token; see `BERTConfig`."""

    def __init__(self, config: BERTConfig, *, rngs: nnx.Rngs):
        def table(rows: int) -> nnx.Param:
            init = normal(0.02)(rngs.params(), (rows, config.width))
            return nnx.Param(init, out_sharding=(None, "embed"))

        self.config = config
        self.token_embedding = table(config.vocabulary)
        self.position_embedding = table(config.max_tokens)
        self.type_embedding = table(config.types)
        self.norm = layer_norm(config.width, eps=EPS, dtype=config.dtype, rngs=rngs)
        self.layers = nnx.List(
            BERTLayer(config.width, config.hidden, config.heads, dtype=config.dtype, rngs=rngs)
            for _ in range(config.layers)
        )

    def __call__(self, ids: Int[Array, "b l"], real: Bool[Array, "b l"]) -> Float[Array, "b l d"]:
        """A vector for each token, in `config.dtype`; what it is of padding means nothing.

        ids: numbers of at most `config.max_tokens` tokens. real: False for padding, which no real
            token sees.
        """
        length = ids.shape[1]
        if length > self.config.max_tokens:
            raise Refusal(f"texts have {length} tokens; at most {self.config.max_tokens} are taken")
        place = self.position_embedding[...][:length] + self.type_embedding[...][:1]
        x = self.norm(self.token_embedding[...][ids] + place[None])
        seen = real[:, None, :] | jnp.eye(length, dtype=bool)[None]  # padding sees itself
        for layer in self.layers:
            x = layer(x, seen)
        return x


MINILM_L6 = BERTConfig()
"""The encoder of all-MiniLM-L6-v2; 22,565,376 weights without its pooling layer."""
