"""CLIP's text transformer: token numbers to one vector for each token.

Radford et al. 2021 (arXiv:2103.00020), section 2.4. A token sees itself and those before it. The
result is every token after the final norm, as Stable Diffusion reads it, not the one projected
vector of a whole text.

`CLIP_TEXT_SD21` is OpenCLIP's ViT-H text tower without its last layer: Stable Diffusion 2 reads
the 23rd of 24 layers (then the final norm), and its published weights hold just those. It is the
text encoder of Stable Video Diffusion's text-to-video form (Blattmann et al. 2023, section 4.2).
Padding is not masked: it is attended to like words, in training and here.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.encoder import Activation, EncoderLayer, check_sizes, layer_norm
from vdm_jax.nn.init import normal, streamed


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """Shape of the tower.

    hidden: width of the perceptron in each layer.
    max_tokens: the longest text, begin and end included.
    dtype: what the layers compute in; the norms compute in float32.
    """

    vocabulary: int = 49408
    width: int = 1024
    hidden: int = 4096
    layers: int = 23
    heads: int = 16
    max_tokens: int = 77
    activation: Activation = "gelu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_sizes(
            self.width,
            self.heads,
            hidden=self.hidden,
            layers=self.layers,
            vocabulary=self.vocabulary,
            max_tokens=self.max_tokens,
        )

    def build(self, *, rngs: nnx.Rngs) -> "CLIPText":
        return CLIPText(self, rngs=streamed(rngs))


class CLIPText(nnx.Module):
    """Token numbers -> a vector for each token; see `CLIPTextConfig`."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.config = config
        self.token_embedding = nnx.Param(
            normal(0.02)(rngs.params(), (config.vocabulary, width)), out_sharding=(None, "embed")
        )
        self.position_embedding = nnx.Param(
            normal(0.01)(rngs.params(), (config.max_tokens, width)), out_sharding=(None, "embed")
        )
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
        self.final_norm = layer_norm(width, dtype=dtype, rngs=rngs)

    def __call__(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """A vector for each token, in `config.dtype`.

        ids: token numbers of at most `config.max_tokens`, as the tokenizer wrote them: begin,
            words, end, padding.
        """
        length = ids.shape[1]
        if length > self.config.max_tokens:
            raise Refusal(f"texts have {length} tokens; at most {self.config.max_tokens} are taken")
        tokens = self.token_embedding[...][ids].astype(self.config.dtype)
        x = tokens + self.position_embedding[...][:length].astype(self.config.dtype)[None]
        before = jnp.asarray(np.tri(length, dtype=bool))
        for layer in self.layers:
            x = layer(x, before)
        return self.final_norm(x)


CLIP_TEXT_SD21 = CLIPTextConfig()
"""The text encoder of Stable Diffusion 2.1; 340,387,840 weights."""
