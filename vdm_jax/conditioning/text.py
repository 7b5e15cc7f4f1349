"""Captions to tokens: by hashed words, learned with the model, or by CLIP's text tower.

Hashed words suit corpora whose captions use a few hundred words, or whose classes are named. Each
word selects two rows of one table by two independent hashes, and the rows are summed, so that two
words are only confused when both hashes collide (Svenstrup et al. 2017, arXiv:1709.03933). There
is no vocabulary file to keep beside the weights, and no word is unknown.

CLIP's tower is trained beforehand and reads free text; its tokenizer is a folder of files. So is
that of `conditioning.sentence`. Or captions are embedded elsewhere, by anything: `given_tokens`.
"""

import hashlib
import logging
import re
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
from vdm_jax.models.clip_text import CLIP_TEXT_SD21, CLIPTextConfig
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

    def blank(self, count: int) -> Int[np.ndarray, "{count} l 2"]:
        """As of captions without words."""
        return np.zeros((count, self.max_words, _NUM_HASHES), np.int32)

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


@dataclass(frozen=True, kw_only=True)
class CLIPTextEncoderConfig(TextTower):
    """CLIP's text tower, and its tokenizer (see `TextTower`)."""

    KIND = tokenizer.CLIP

    tower: CLIPTextConfig = CLIP_TEXT_SD21

    def build(self, *, rngs: nnx.Rngs) -> "CLIPTextEncoder":
        return CLIPTextEncoder(self, rngs=rngs)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.tower.max_tokens, self.tower.width

    def tokenize(self, captions: Sequence[str]) -> Int[np.ndarray, "b l"]:
        """Token numbers of each caption, padded to the tower's length.

        Raises:
            Refusal: if the tokenizer's files are missing, damaged, or of a larger vocabulary.
        """
        ids = tokenizer.tokenize(Path(self.tokenizer), captions, self.tower.max_tokens)
        return self.known(ids, self.tower.vocabulary)

    def blank(self, count: int) -> Int[np.ndarray, "{count} l"]:
        return np.zeros((count, self.tower.max_tokens), np.int32)

    def reading(self, captions: Sequence[str]) -> list[Any]:
        return [self.tower.activation, self.tokenize(captions).tolist()]


class CLIPTextEncoder(nnx.Module):
    """Token numbers to the tokens of `CLIPTextConfig`'s tower."""

    def __init__(self, config: CLIPTextEncoderConfig, *, rngs: nnx.Rngs):
        self.tower = config.tower.build(rngs=rngs)

    def __call__(self, ids: Int[Array, "b l"]) -> Tokens:
        """Tokens in float32; all are real, for padding is attended to as well."""
        embedding = self.tower(ids)
        return Tokens(embedding.astype(jnp.float32), jnp.ones(embedding.shape[:2], bool))


def given_tokens(embedding: Float[Array, "b *t l d"]) -> Tokens:
    """Captions that were embedded elsewhere, in float32. A token of zeros is padding: no token."""
    return Tokens(embedding.astype(jnp.float32), (embedding != 0).any(-1))
