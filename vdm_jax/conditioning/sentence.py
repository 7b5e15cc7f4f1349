"""Captions to tokens by an embedder of sentences: BERT's encoder, trained beforehand.

It was trained so that sentences that mean the same lie near each other (Reimers and Gurevych 2019,
arXiv:1908.10084), by the mean over their tokens. Here the tokens themselves are the stream, as the
last layer leaves them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vdm_jax.conditioning import tokenizer
from vdm_jax.conditioning.tower import TextTower
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.bert import MINILM_L6, BERTConfig
from vdm_jax.models.cond import Tokens

ENDED = -1  # in place of a token's number, where the caption has ended


@dataclass(frozen=True, kw_only=True)
class SentenceEncoderConfig(TextTower):
    """A BERT encoder, its tokenizer (see `TextTower`), and how much of a caption it reads.

        python -m vdm_jax.convert.minilm --output models/minilm

    brings all-MiniLM-L6-v2. A run takes it with text=SentenceEncoderConfig(
    tokenizer="models/minilm/tokenizer") and parts_from=(PartFrom("text", "models/minilm"),); with
    trainable=NETWORK it stays as it is.

    max_tokens: tokens of a caption, begin and end included; a longer one is cut, with a warning.
    """

    KIND = tokenizer.BERT

    tower: BERTConfig = MINILM_L6
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if not 3 <= self.max_tokens <= self.tower.max_tokens:
            raise Refusal(
                f"max_tokens is {self.max_tokens}; it must be from 3 to the "
                f"{self.tower.max_tokens} that the tower knows"
            )

    def build(self, *, rngs: nnx.Rngs) -> "SentenceEncoder":
        return SentenceEncoder(self, rngs=rngs)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.max_tokens, self.tower.width

    def tokenize(self, captions: Sequence[str]) -> Int[np.ndarray, "b l"]:
        """Token numbers: begin, the caption, end; then `ENDED`, and of "" nothing but that.

        Raises:
            Refusal: if the tokenizer's files are missing, damaged, or of a larger vocabulary.
        """
        rows = tokenizer.pieces(Path(self.tokenizer), captions, self.max_tokens, self.KIND)
        spoken = [row if len(row) > 2 else [] for row in rows]  # more than begin and end
        return self.known(tokenizer.padded(spoken, self.max_tokens, ENDED), self.tower.vocabulary)

    def blank(self, count: int) -> Int[np.ndarray, "{count} l"]:
        return np.full((count, self.max_tokens), ENDED, np.int32)

    def reading(self, captions: Sequence[str]) -> list[Any]:
        return [self.tower.heads, self.tokenize(captions).tolist()]


class SentenceEncoder(nnx.Module):
    """Token numbers to the tokens of `BERTConfig`'s tower."""

    def __init__(self, config: SentenceEncoderConfig, *, rngs: nnx.Rngs):
        self.tower = config.tower.build(rngs=rngs)

    def __call__(self, ids: Int[Array, "b l"]) -> Tokens:
        """Tokens in float32, zeros where the caption has ended: that of "" is the null stream."""
        real = ids != ENDED
        embedding: Float[Array, "b l d"] = self.tower(jnp.maximum(ids, 0), real)
        return Tokens(jnp.where(real[..., None], embedding.astype(jnp.float32), 0.0), real)
