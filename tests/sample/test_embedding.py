"""A caption and its embedding draw the same video; an embedding that does not fit is refused."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditioning.test_sentence import TOWER
from conditioning.test_sentence import write as write_tokenizer
from flax import nnx
from tasks.test_tasks import NETWORK, TEXT, built

from vdm_jax.conditioning.sentence import SentenceEncoderConfig
from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.conditioning.tower import TextTower
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import embedding, load
from vdm_jax.sample.__main__ import main as sample
from vdm_jax.sample.generate import Generator
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.tasks.task import ModelConfig, Pretrained, abstract, tuned

TASK = tuned(TEXT, {"guidance_scale": 3.0})
CAPTIONS = ["a red circle moves up", "blue"]
LISTENING = replace(NETWORK, token_width=TOWER.width)
ENCODERS = ("sentence", "words")
ALONE = meshes.MeshConfig().build_on(jax.devices()[:1])


def saved(folder, model, params):
    text = model.text
    beside = text.texts() if isinstance(text, TextTower) else {}
    if isinstance(text, TextTower):
        model = replace(model, text=replace(text, tokenizer="tokenizer"))
    checkpoint.save_weights(folder, configs.to_json(Pretrained(model, TASK)), params, beside)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Model directories by what reads their captions; "nothing" is that of sentences, deafened."""
    home = tmp_path_factory.mktemp("models")
    words = write_tokenizer(home / "words-of-sentences")
    text = SentenceEncoderConfig(tower=TOWER, tokenizer=str(words), max_tokens=9)
    each = {
        "sentence": ModelConfig(LISTENING, text),
        "words": ModelConfig(LISTENING, WordEncoderConfig(width=16, max_words=7, table_rows=64)),
    }
    made = {name: nnx.state(built(model), nnx.Param) for name, model in each.items()}
    folders = {name: saved(home / name, each[name], made[name]) for name in each}
    network = nnx.State({"network": made["sentence"]["network"]})
    folders["nothing"] = saved(home / "nothing", ModelConfig(LISTENING), network)
    deaf = ModelConfig(replace(NETWORK, token_width=None))
    folders["deaf"] = saved(home / "deaf", deaf, nnx.state(built(deaf), nnx.Param))
    return folders


@cache
def pipeline(folder):
    return Pipeline(folder, mesh=ALONE, batch_size=2)


def embedded(folder, captions=CAPTIONS):
    """What the text encoder of a model says, as a user would compute it."""
    model = load.describe(folder).model
    graphdef, params = abstract(ModelConfig(text=model.text))
    _, state = load.part(folder, "text", load.placed(params, ALONE, "float32"))
    text = nnx.merge(graphdef, state).text
    graph, weights = nnx.split(text)
    ids = jnp.asarray(model.text.tokenize(captions))
    return np.asarray(jax.jit(lambda w, ids: nnx.merge(graph, w)(ids).embedding)(weights, ids))


@pytest.fixture(scope="module")
def spoken(models):
    """Of each encoder: the videos of captions, and the captions embedded."""
    made = {}
    for name in ENCODERS:
        made[name] = pipeline(models[name])(None, CAPTIONS), embedded(models[name])
    return made


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_caption_and_its_embedding_draw_the_same_bits(models, spoken, encoder):
    videos, rows = spoken[encoder]
    assert rows.shape == (2, 9 if encoder == "sentence" else 7, 16) and (rows[1, 3:] == 0).all()
    draw = pipeline(models[encoder])
    np.testing.assert_array_equal(draw(None, given={"text_embedding": rows}), videos)
    turned = draw(None, given={"text_embedding": rows[:, ::-1].copy()})
    assert np.abs(turned - videos).max() < 1e-4  # pooled: the order of tokens is none
    other = draw(None, given={"text_embedding": rows[::-1].copy()})
    assert np.abs(other - videos).max() > 1e-2


def test_a_model_without_a_text_encoder_takes_embeddings_of_any_length(models, spoken):
    """More padding is no more text; no token at all is no caption."""
    videos, rows = spoken["sentence"]
    draw = pipeline(models["nothing"])
    np.testing.assert_array_equal(draw(None, given={"text_embedding": rows}), videos)
    longer = np.pad(rows, ((0, 0), (0, 3), (0, 0))).astype(np.float64)
    np.testing.assert_allclose(draw(None, given={"text_embedding": longer}), videos, atol=1e-5)
    silent = draw(None, ["", ""])
    np.testing.assert_allclose(draw(None, given={"text_embedding": 0 * rows}), silent, atol=1e-5)
    assert np.abs(silent - videos).max() > 1e-2


def test_nobody_reads_a_caption_beside_an_embedding(models, spoken, tmp_path):
    """Not even the tokenizer, which may be missing."""
    described = load.describe(models["sentence"])
    text = replace(described.model.text, tokenizer=str(tmp_path))
    gone = replace(described.model, text=text)
    params = load.weights(models["sentence"], described, gone, ALONE, "float32")
    draw = partial(Generator(TASK, gone, ALONE, batch_size=2).signal, params, ["", ""], None)
    with pytest.raises(Refusal, match="holds no tokenizer"):
        draw(seed=0, given={})
    videos, rows = spoken["sentence"]
    signal = draw(seed=0, given={"text_embedding": rows})
    np.testing.assert_array_equal(np.clip(signal / 2 + 0.5, 0, 1), videos)


def test_the_command_takes_the_captions_of_a_file(models, spoken, tmp_path, capsys):
    _, rows = spoken["sentence"]
    np.save(tmp_path / "two.npy", rows)
    args = ["--model", str(models["nothing"]), "--num-steps", "1", "--num-videos", "2"]
    output = ["--output", str(tmp_path / "a.mp4")]
    assert sample([*args, *output, "--embedding", str(tmp_path / "two.npy")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert {path.name for path in tmp_path.glob("*.mp4")} == {f"a_{n}.mp4" for n in range(4)}


def test_a_file_holds_one_caption_or_several(tmp_path):
    rows = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    np.save(tmp_path / "one.npy", rows[1])
    np.save(tmp_path / "two.npy", rows)
    for name, wanted in (("one", rows[1:]), ("two", rows)):
        got = embedding.read(tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == np.float32


def test_captions_are_shared_by_pictures_or_have_one_each():
    rows = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    assert embedding.spread(rows, 2, 2)[:, 0, 0].tolist() == [0, 0, 12, 12]
    assert embedding.spread(rows[:1], 3, 1)[:, 0, 0].tolist() == [0, 0, 0]
    with pytest.raises(Refusal, match="holds 2 captions; give one, or one for each of 3"):
        embedding.spread(rows, 3, 1)


FILES = {
    "narrow": (np.ones((3, 8), np.float32), r"\[1, 3, 8\]; it must be \[1, tokens, 16\]"),
    "flat": (np.ones(16, np.float32), r"float32 of the shape \[16\]; floating-point numbers"),
    "whole": (np.ones((3, 16), np.int32), "holds int32"),
    "empty": (np.ones((0, 16), np.float32), r"of the shape \[0, 16\]"),
    "nan": (np.full((3, 16), np.nan, np.float32), "must hold finite"),
    "object": (np.array([None]), "no array in a .npy file"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_hold_something_else_are_refused_before_anything_is_loaded(
    models, tmp_path, name
):
    array, wanted = FILES[name]
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    args = ["--model", str(models["nothing"]), "--output", str(tmp_path / "out.mp4")]
    with pytest.raises(Refusal, match=wanted) as refusal:
        sample([*args, "--embedding", str(tmp_path / "a.npy")])
    assert "\n" not in str(refusal.value)


def test_no_file_of_numpy_and_a_lying_one_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", np.ones((2, 2), np.float32))
    np.save(tmp_path / "b.npy", np.ones((2, 2), np.float32))
    told = (tmp_path / "b.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(told.replace(b"(2, 2), }", b"(200000000000, 200000), }", 1))
    (tmp_path / "c.npy").write_bytes(told[:40])
    (tmp_path / "d.npy").write_bytes(b"")
    for name in ("a.npz", "b.npy", "c.npy", "d.npy", ""):
        with pytest.raises(Refusal, match=r"no array in a \.npy file$"):
            embedding.read(tmp_path / name)
    with pytest.raises(Refusal, match="no such file"):
        embedding.read(tmp_path / "none.npy")


def test_requests_that_say_two_things_or_speak_to_the_deaf_are_refused(models, spoken, tmp_path):
    _, rows = spoken["sentence"]
    np.save(tmp_path / "a.npy", rows)
    args = ["--embedding", str(tmp_path / "a.npy"), "--output", str(tmp_path / "out.mp4")]
    with pytest.raises(Refusal, match="give one"):
        sample(["--model", str(models["sentence"]), "--prompt", "red", *args])
    with pytest.raises(Refusal, match="this model reads no text"):
        sample(["--model", str(models["deaf"]), *args])
    draw = pipeline(models["sentence"])
    with pytest.raises(Refusal, match="not both"):
        draw(None, CAPTIONS, given={"text_embedding": rows})
    with pytest.raises(Refusal, match=r"has the shape \[2, 9, 15\]; it must be \[2, tokens, 16\]"):
        draw(None, given={"text_embedding": rows[..., :15]})
    with pytest.raises(Refusal, match="finite floating-point"):
        draw(None, given={"text_embedding": rows.astype(int)})
