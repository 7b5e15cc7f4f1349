"""Captions become tokens: every word counts, nothing else does."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.core import mesh as meshes
from vdm_jax.data.synthetic import VOCABULARY

CONFIG = WordEncoderConfig(width=8, max_words=6)


@pytest.fixture(scope="module")
def encoder():
    with meshes.unplaced():
        return CONFIG.build(rngs=nnx.Rngs(0))


def test_case_and_spaces_do_not_count_but_words_and_their_order_do():
    a, b, c, d = CONFIG.tokenize(["a red  Circle", "A red circle", "circle red a", "a red cross"])
    np.testing.assert_array_equal(a, b)
    assert (a != c).any() and (a != d).any()
    assert set(map(tuple, a)) == set(map(tuple, c))


def test_no_two_words_of_the_vocabulary_share_both_rows():
    config = WordEncoderConfig(max_words=len(VOCABULARY))
    rows = config.tokenize([" ".join(VOCABULARY)])[0]
    assert len(set(map(tuple, rows))) == len(VOCABULARY)
    assert rows.min() >= 1 and rows.max() < config.table_rows


def test_a_long_caption_is_cut_with_a_warning_that_says_what_is_lost(caplog):
    cut = CONFIG.tokenize(["one two three four five six seven eight"])
    assert "losing: seven eight" in caplog.text
    np.testing.assert_array_equal(cut, CONFIG.tokenize(["one two three four five six"]))


def test_tokens_of_an_empty_caption_are_the_null(encoder):
    tokens = encoder(jnp.asarray(CONFIG.tokenize(["", "red"])))
    assert not tokens.mask[0].any() and (tokens.embedding[0] == 0).all()
    assert tokens.mask[1].tolist() == [True] + [False] * 5
    assert (tokens.embedding[1, 0] != 0).any() and (tokens.embedding[1, 1:] == 0).all()


def test_the_place_of_a_word_is_in_its_token(encoder):
    tokens = encoder(jnp.asarray(CONFIG.tokenize(["red red"])))
    assert (tokens.embedding[0, 0] != tokens.embedding[0, 1]).any()
