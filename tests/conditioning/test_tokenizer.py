"""CLIP's tokenizer from local files, and the captions that go through it to the tower."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import CLIPTokenizer

from vdm_jax.conditioning import tokenizer
from vdm_jax.conditioning.text import CLIPTextEncoderConfig
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.clip_text import CLIPTextConfig

LETTERS = "!abcdefghijklmnopqrstuvwxyz,"
WORDS = [*LETTERS, *(c + "</w>" for c in LETTERS), "re", "red</w>"]
VOCABULARY = [*WORDS, "<|startoftext|>", "<|endoftext|>"]
BEGIN, END, PAD = len(WORDS), len(WORDS) + 1, 0
CAPTIONS = ["A red  cat, red!", "", "é", "reread", "red " * 9]
TOWER = CLIPTextConfig(
    vocabulary=len(VOCABULARY), width=8, hidden=8, layers=1, heads=2, max_tokens=12
)


def write(folder, settings=None):
    """A small tokenizer of CLIP's kind; like Stable Diffusion 2's, it pads with "!"."""
    folder.mkdir()
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    settings = {"pad_token": "!"} if settings is None else settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "tokenizer")


@pytest.mark.parity
def test_the_numbers_are_those_of_transformers(folder):
    theirs = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    for length in (12, 5):
        wanted = theirs(
            CAPTIONS, padding="max_length", truncation=True, max_length=length, return_tensors="np"
        )
        np.testing.assert_array_equal(
            tokenizer.tokenize(folder, CAPTIONS, length), wanted["input_ids"]
        )


def test_begin_words_end_and_padding(folder):
    red = VOCABULARY.index("red</w>")
    ids = tokenizer.tokenize(folder, ["red RED", ""], 6)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[BEGIN, red, red, END, PAD, PAD], [BEGIN, END, PAD, PAD, PAD, PAD]]
    assert tokenizer.tokenize(folder, [], 6).shape == (0, 6)


def test_a_long_caption_is_cut_with_a_warning_that_says_what_is_lost(folder, caplog):
    with caplog.at_level(logging.WARNING):
        ids = tokenizer.tokenize(folder, ["red red cab"], 5)
    assert ids[0, -1] == END and "cut after 3 tokens, losing: ab" in caplog.text


def test_the_one_file_form_gives_the_same_numbers(folder, tmp_path):
    CLIPTokenizer.from_pretrained(folder, local_files_only=True).save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    np.testing.assert_array_equal(
        tokenizer.tokenize(tmp_path, CAPTIONS, 12), tokenizer.tokenize(folder, CAPTIONS, 12)
    )


def test_missing_damaged_and_outsized_files_are_refused_in_one_line(folder, tmp_path):
    with pytest.raises(Refusal, match=r"holds no tokenizer: it must have tokenizer\.json or vocab"):
        tokenizer.tokenize(tmp_path / "none", ["red"], 5)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(Refusal, match="holds no tokenizer"):
        tokenizer.texts(tmp_path)
    for number, text in enumerate(("{", "[]", '{"a": "b"}', "\x00", "[" * 5000, "")):
        broken = write(tmp_path / str(number))
        (broken / "vocab.json").write_text(text)
        with pytest.raises(Refusal) as refusal:
            tokenizer.tokenize(broken, ["red"], 5)
        assert str(broken) in str(refusal.value) and "\n" not in str(refusal.value)
    large = write(tmp_path / "large")
    with (large / "merges.txt").open("ab") as file:
        file.truncate(tokenizer.MAX_BYTES + 1)
    with pytest.raises(Refusal, match=r"merges\.txt has"):
        tokenizer.tokenize(large, ["red"], 5)


def test_captions_become_tokens_of_the_tower_wherever_the_model_directory_lies(folder, tmp_path):
    config = configs.from_json(configs.to_json(CLIPTextEncoderConfig(tower=TOWER)))
    (tmp_path / "moved" / "tokenizer").mkdir(parents=True)
    for name, text in tokenizer.texts(folder).items():
        (tmp_path / "moved" / "tokenizer" / name).write_text(text, encoding="utf-8")
    config = config.at(tmp_path / "moved")
    ids = config.tokenize(CAPTIONS)
    np.testing.assert_array_equal(ids, tokenizer.tokenize(folder, CAPTIONS, 12))
    with meshes.unplaced():
        encoder = config.build(rngs=nnx.Rngs(0))
    tokens = encoder(jnp.asarray(ids))
    assert tokens.embedding.shape == (len(CAPTIONS), 12, 8) and tokens.mask.all()
    np.testing.assert_array_equal(tokens.embedding, encoder.tower(jnp.asarray(ids)))


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(folder):
    tower = CLIPTextConfig(vocabulary=20, width=8, hidden=8, layers=1, heads=2, max_tokens=12)
    config = CLIPTextEncoderConfig(tower=tower, tokenizer=str(folder))
    with pytest.raises(Refusal, match=f"gives token {END}; this model knows 20"):
        config.tokenize(["red"])
