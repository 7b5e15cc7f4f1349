"""A run that listens to an embedder of sentences from the disk, and what it leaves."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from conditioning.test_sentence import CAPTIONS, TOWER
from conditioning.test_sentence import write as write_tokenizer
from models.test_bert import theirs_of

from vdm_jax.adapters.trainable import NETWORK
from vdm_jax.conditioning.sentence import SentenceEncoderConfig
from vdm_jax.convert.__main__ import main as convert
from vdm_jax.convert.minilm import from_folder
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import load
from vdm_jax.train import rundir
from vdm_jax.train.config import PartFrom
from vdm_jax.train.loop import train
from vdm_jax.train.precomputed import keeps_text


def rows(folder):
    """One array of a directory's text encoder."""
    name = "text/tower/layers/1/fc2/kernel"
    return checkpoint.stored_weights(folder).read([name])[name]


@pytest.fixture
def config(tmp_path):
    """The tiny run, with a small embedder brought from a published folder."""
    published = write_tokenizer(tmp_path / "published")
    theirs_of(TOWER, seed=3).save_pretrained(published)
    from_folder(published, tmp_path / "embedder")
    tiny = configs.load("tests/train/tiny.py")
    text = SentenceEncoderConfig(
        tower=TOWER, tokenizer=str(tmp_path / "embedder" / "tokenizer"), max_tokens=12
    )
    network = replace(tiny.model.network, token_width=TOWER.width)
    return replace(
        tiny,
        model=replace(tiny.model, network=network, text=text),
        parts_from=(PartFrom("text", str(tmp_path / "embedder")),),
        trainable=NETWORK,
        steps=1,
        batch_size=8,
    )


def test_the_embedder_stays_as_it_was_and_goes_where_the_run_goes(config, tmp_path):
    assert keeps_text(config)
    run = tmp_path / "run"
    assert train(config, run)
    wanted = rows(tmp_path / "embedder")
    np.testing.assert_array_equal(rows(run / "frozen"), wanted)
    said = config.model.text.tokenize(CAPTIONS)
    shutil.rmtree(tmp_path / "embedder")
    run = run.rename(tmp_path / "moved")
    assert convert(["--from", str(run), "--output", str(tmp_path / "model")]) == 0
    np.testing.assert_array_equal(rows(tmp_path / "model"), wanted)
    for folder in (run, tmp_path / "model"):
        text = load.describe(folder).model.text
        assert text.tokenizer == str(folder / "tokenizer")
        np.testing.assert_array_equal(text.tokenize(CAPTIONS), said)


def test_a_run_without_its_tokenizer_is_refused_before_it_trains(config, tmp_path):
    text = replace(config.model.text, tokenizer=str(tmp_path / "none"))
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(Refusal, match="none holds no tokenizer"):
        rundir.prepare(run, replace(config, model=replace(config.model, text=text)))
