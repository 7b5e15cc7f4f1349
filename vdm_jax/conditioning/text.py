"""Captions to tokens: hashed words and a table that is learned with the model.

For corpora whose captions use a few hundred words, or whose classes are named. Each word selects
two rows of one table by two independent hashes, and the rows are summed, so that two words are
only confused when both hashes collide (Svenstrup et al. 2017, arXiv:1709.03933). There is no
vocabulary file to keep beside the weights, and no word is unknown.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vdm_jax.core.refusal import Refusal
from vdm_jax.models.cond import Tokens
from vdm_jax.nn.init import normal

LOG = logging.getLogger(__name__)

_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
_NUM_HASHES = 2


@dataclass(frozen=True)
class WordEncoderConfig:
    """Sizes of a `WordEncoder`."""

    width: int = 64
    """Features of a token."""
    max_words: int = 16
    """Words kept of a caption; a longer one is cut, with a warning."""
    table_rows: int = 2048
    """Rows that words are hashed into."""

    def __post_init__(self) -> None:
        if min(self.width, self.max_words) < 1 or self.table_rows < 2:
            raise Refusal(f"a word encoder needs width, words and 2 table rows, got {self}")

    def build(self, *, rngs: nnx.Rngs) -> "WordEncoder":
        return WordEncoder(self, rngs=rngs)

    def tokenize(self, captions: Sequence[str]) -> Int[np.ndarray, "b l 2"]:
        """Row numbers of each word of each caption; 0 where the caption has ended.

        Case and white space do not count; punctuation marks are words.
        """
        rows = np.zeros((len(captions), self.max_words, _NUM_HASHES), np.int32)
        for i, caption in enumerate(captions):
            words = _WORD.findall(caption.lower())
            if len(words) > self.max_words:
                lost = " ".join(words[self.max_words :])
                LOG.warning("caption cut after %d words, losing: %s", self.max_words, lost)
            for j, word in enumerate(words[: self.max_words]):
                rows[i, j] = self._rows(word)
        return rows

    def _rows(self, word: str) -> tuple[int, int]:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        first, second = (int.from_bytes(half, "little") for half in (digest[:4], digest[4:]))
        return 1 + first % (self.table_rows - 1), 1 + second % (self.table_rows - 1)


class WordEncoder(nnx.Module):
    """Word rows and positions summed, one token a word."""

    def __init__(self, config: WordEncoderConfig, *, rngs: nnx.Rngs):
        init = normal(config.width**-0.5)
        self.table = nnx.Param(
            init(rngs.params(), (config.table_rows, config.width)),
            out_sharding=(None, "embed"),
        )
        self.position = nnx.Param(
            init(rngs.params(), (config.max_words, config.width)),
            out_sharding=(None, "embed"),
        )

    def __call__(self, rows: Int[Array, "b l 2"]) -> Tokens:
        """Tokens of width `config.width`; a caption without words gives the null stream."""
        mask = rows[..., 0] > 0
        embedding: Float[Array, "b l d"] = (
            self.table[...][rows].sum(axis=2) + self.position[...][None]
        )
        return Tokens(jnp.where(mask[..., None], embedding, 0.0), mask)
