"""Captions to the tokens of a sentence embedder: its tokenizer, its padding, its null."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import BertTokenizer

from vdm_jax.conditioning import tokenizer
from vdm_jax.conditioning.drop import null
from vdm_jax.conditioning.sentence import ENDED, SentenceEncoderConfig
from vdm_jax.conditioning.text import given_tokens
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.bert import BERTConfig
from vdm_jax.models.cond import Cond

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, "a", "red", "blue", "circle", "##s", "moves", "up", "down", "!", ","]
BEGIN, END = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
CAPTIONS = ["A red  circle moves up!", "", "Circles, zebras", "[MASK] red", "red " * 40]
TOWER = BERTConfig(
    vocabulary=len(VOCABULARY), width=16, hidden=24, layers=2, heads=2, max_tokens=32
)


def write(folder):
    """A small tokenizer of BERT's kind."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "tokenizer")


@pytest.fixture(scope="module")
def config(folder):
    return SentenceEncoderConfig(tower=TOWER, tokenizer=str(folder), max_tokens=9)


@pytest.fixture(scope="module")
def encoder(config):
    with meshes.unplaced():
        return config.build(rngs=nnx.Rngs(0))


@pytest.mark.parity
def test_the_numbers_are_those_of_transformers(folder, config):
    theirs = BertTokenizer.from_pretrained(folder, local_files_only=True)
    wanted = theirs(CAPTIONS, padding="max_length", truncation=True, max_length=9)
    ids = np.where(np.array(wanted["attention_mask"]), wanted["input_ids"], ENDED)
    ids[CAPTIONS.index("")] = ENDED
    np.testing.assert_array_equal(config.tokenize(CAPTIONS), ids)


def test_begin_words_end_and_nothing_of_an_empty_caption(config):
    red = VOCABULARY.index("red")
    rows = config.tokenize(["Red", " "])
    assert rows.dtype == np.int32 and rows[0].tolist() == [BEGIN, red, END, *[ENDED] * 6]
    np.testing.assert_array_equal(rows[1:], config.blank(1))
    assert config.tokenize([]).shape == (0, 9)


def test_a_long_caption_is_cut_with_a_warning_that_says_what_is_lost(config, caplog):
    with caplog.at_level(logging.WARNING):
        rows = config.tokenize(["red " * 7 + "circles up"])
    assert rows[0, -1] == END and "cut after 7 tokens, losing: circles up" in caplog.text
    caplog.clear()
    config.tokenize(["red " * 7])
    assert not caplog.text


def test_the_one_file_form_gives_the_same_numbers_whatever_it_says_of_length(folder, tmp_path):
    """Published ones cut and pad by themselves."""
    theirs = BertTokenizer.from_pretrained(folder, local_files_only=True)
    theirs.backend_tokenizer.enable_truncation(4)
    theirs.backend_tokenizer.enable_padding(length=4)
    theirs.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    both = (tokenizer.pieces(place, CAPTIONS, 32, tokenizer.BERT) for place in (folder, tmp_path))
    assert next(both) == next(both)


def test_padding_cannot_change_the_tokens_of_a_caption(config, encoder):
    caption = ["a blue circle moves down"]
    short = encoder(jnp.asarray(config.tokenize(caption)))
    beside = encoder(jnp.asarray(config.tokenize([*caption, "red circles, red circles"])))
    longer = SentenceEncoderConfig(tower=TOWER, tokenizer=config.tokenizer, max_tokens=30)
    long = encoder(jnp.asarray(longer.tokenize(caption)))
    count = int(short.mask.sum())
    assert count == 7 and long.mask.sum() == 7 and long.embedding.shape == (1, 30, 16)
    for other in (beside.embedding[0], long.embedding[0]):
        np.testing.assert_allclose(other[:count], short.embedding[0, :count], atol=1e-6)
    assert (long.embedding[0, count:] == 0).all() and np.ptp(short.embedding[0, :count]) > 1


def test_a_caption_without_words_is_the_null(config, encoder):
    tokens = encoder(jnp.asarray(config.tokenize(["", "red"])))
    nothing = null(Cond(tokens={"text": tokens}), ("tokens",)).tokens["text"]
    assert not tokens.mask[0].any() and (tokens.embedding[0] == 0).all()
    np.testing.assert_array_equal(tokens.embedding[0], nothing.embedding[0])
    assert tokens.mask[1].tolist() == [True] * 3 + [False] * 6
    assert tokens.embedding.dtype == jnp.float32


def test_what_it_makes_can_be_given_back_without_its_mask(config, encoder):
    tokens = encoder(jnp.asarray(config.tokenize(CAPTIONS[:3])))
    again = given_tokens(tokens.embedding)
    np.testing.assert_array_equal(again.mask, tokens.mask)
    np.testing.assert_array_equal(again.embedding, tokens.embedding)


def test_the_order_of_words_and_each_word_count(config, encoder):
    captions = ["red up", "up red", "blue up"]
    one, turned, other = encoder(jnp.asarray(config.tokenize(captions))).embedding
    assert np.abs(one - turned).max() > 0.1 and np.abs(one[2] - other[2]).max() > 1e-3


def test_a_directory_that_was_moved_finds_its_tokenizer(config, tmp_path):
    for name, text in config.texts().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    moved = configs.from_json(configs.to_json(config)).at(tmp_path)
    assert moved.tokenizer == str(tmp_path / "tokenizer")
    np.testing.assert_array_equal(moved.tokenize(CAPTIONS), config.tokenize(CAPTIONS))


def test_what_does_not_fit_is_refused(folder, config, tmp_path):
    with pytest.raises(Refusal, match=r"max_tokens is 33; it must be from 3 to the 32"):
        SentenceEncoderConfig(tower=TOWER, max_tokens=33)
    small = SentenceEncoderConfig(
        tower=BERTConfig(vocabulary=6, width=8, hidden=8, layers=1, heads=2),
        tokenizer=str(folder),
    )
    with pytest.raises(Refusal, match=r"gives token \d+; this model knows 6"):
        small.tokenize(["red"])
    nowhere = SentenceEncoderConfig(tokenizer=str(tmp_path / "none"))
    with pytest.raises(Refusal, match=r"must have tokenizer\.json or vocab\.txt$"):
        nowhere.tokenize(["red"])
    broken = write(tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(Refusal, match="cannot be read") as refusal:
        SentenceEncoderConfig(tokenizer=str(broken)).tokenize(["red"])
    assert "\n" not in str(refusal.value)
