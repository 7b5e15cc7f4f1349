"""Captions that went through the text tower before: the loss is the same, and those of another
tower are refused."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditioning.test_tokenizer import VOCABULARY
from conditioning.test_tokenizer import write as write_tokenizer
from flax import nnx
from train.test_latents import checked

from vdm_jax.adapters.lora import LoRA
from vdm_jax.adapters.trainable import EVERYTHING, NETWORK
from vdm_jax.conditioning.text import CLIPTextEncoderConfig
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import unplaced
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.latents import LatentClips
from vdm_jax.data.loader import stack
from vdm_jax.models.clip_text import CLIPTextConfig
from vdm_jax.tasks.joint import ALONE
from vdm_jax.tasks.task import ModelConfig, Parts, abstract
from vdm_jax.train import begin, latents
from vdm_jax.train.config import PartFrom


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Stage II, the smallest: videos beside pictures, their captions read by a tower from the disk
    that is not trained."""
    home = tmp_path_factory.mktemp("tower")
    tokenizer = write_tokenizer(home / "tokenizer")
    tower = CLIPTextConfig(
        vocabulary=len(VOCABULARY), width=16, hidden=16, layers=1, heads=2, max_tokens=12
    )
    text = CLIPTextEncoderConfig(tower=tower, tokenizer=str(tokenizer))
    save_tower(home / "text", text, seed=1)
    made = configs.load("configs/svd_stage2_video.py:smoke")
    data = replace(
        made.data,
        videos=replace(made.data.videos, length=6),
        pictures=replace(made.data.pictures, length=3, seed=2),
    )
    return replace(
        made,
        model=replace(made.model, text=text),
        data=data,
        parts_from=(PartFrom("text", str(home / "text")),),
        trainable=NETWORK,
    )


def save_tower(folder, text, seed):
    """A model directory with a text encoder alone, in which every weight counts."""
    model = ModelConfig(text=text)
    with unplaced():
        drawn = nnx.state(model.build(rngs=nnx.Rngs(seed)), nnx.Param)
    rng = np.random.default_rng(seed)
    moved = jax.tree.map(
        lambda a: a + jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype), drawn
    )
    checkpoint.save_weights(folder, configs.to_json(Parts(model)), moved)


def stored_in(config, folder):
    """The same run, on latents and embeddings of its own."""
    list(latents.encode(config, folder, per_shard=4))
    parts = {part: LatentClips(directory=str(folder / part)) for part in ("videos", "pictures")}
    return replace(config, data=replace(config.data, **parts))


@pytest.fixture(scope="module")
def listening(spoken, tmp_path_factory):
    return stored_in(spoken, tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def weights(spoken):
    """All weights that the run begins with, the network's moved so that it heeds the caption."""
    mesh = spoken.mesh.build()
    built = begin.build(spoken, mesh)
    state, frozen = built.init()
    params = jax.device_get(built.trainable.join(state.params, frozen))
    rng = np.random.default_rng(0)
    return nnx.State(
        {
            **params,
            "network": jax.tree.map(
                lambda a: a + np.asarray(0.5 * rng.standard_normal(a.shape), a.dtype),
                params["network"],
            ),
        }
    )


@pytest.fixture(scope="module")
def batches(spoken, listening):
    """The same samples: with captions, and with embeddings."""
    embedded = stack([listening.data.build()[i] for i in (1, 4, 5)])
    plain = {name: rows for name, rows in embedded.items() if name != "text_embedding"}
    beside = embedded["pictures"]
    plain["pictures"] = {name: rows for name, rows in beside.items() if name != "text_embedding"}
    return plain, embedded


@pytest.fixture(scope="module")
def loss_of(spoken):
    """(weights, batch) -> the loss of a step that hides every other caption; compiled twice."""
    task = replace(spoken.task, caption_drop=0.5)
    graphdef, _ = abstract(spoken.model)
    run = jax.jit(lambda p, a: task.loss(nnx.merge(graphdef, p), a, jax.random.key(3)))

    def loss(weights, batch, model=spoken.model):
        both, told = run(weights, task.prepare(model, batch))
        return np.array([both, told["video_loss"], told["picture_loss"]])

    return loss


def test_captions_are_kept_as_the_tower_reads_them(spoken, listening, weights):
    videos, source = spoken.data.build(), listening.data.build()
    model = nnx.merge(abstract(spoken.model)[0], jax.tree.map(jnp.asarray, weights))
    for i in (0, 5):
        got = source[i]
        for plain, kept in ((videos[i], got), (videos[i]["pictures"], got["pictures"])):
            captions = np.atleast_1d(plain["caption"]).tolist()
            assert np.atleast_1d(kept["caption"]).tolist() == captions
            wanted = model.text(jnp.asarray(spoken.model.text.tokenize(captions))).embedding
            rows = kept["text_embedding"].reshape(-1, 12, 16)
            assert rows.dtype == np.float16 and np.ptp(rows) > 1
            np.testing.assert_allclose(rows, wanted, rtol=2**-10, atol=2**-14)


def test_the_loss_is_that_of_running_the_tower(weights, batches, loss_of):
    """To the rounding of float16, the same captions being hidden; others give another loss."""
    plain, embedded = batches
    run, kept = loss_of(weights, plain), loss_of(weights, embedded)
    np.testing.assert_allclose(kept, run, rtol=1e-4)
    turned = plain["pictures"]["caption"][::-1, ::-1]
    others = {**plain, "caption": plain["caption"][::-1]}
    others["pictures"] = {**plain["pictures"], "caption": turned}
    assert (abs(loss_of(weights, others) / run - 1) > 3e-3).all()


def test_no_step_runs_the_tower_or_reads_a_tokenizer(spoken, weights, batches, loss_of):
    plain, embedded = batches
    text = replace(spoken.model.text, tokenizer="nowhere")
    nowhere = replace(spoken.model, text=text)
    gone = jax.tree.map(lambda a: np.full_like(a, np.nan), weights["text"])
    without = nnx.State({**weights, "text": gone})
    assert np.isnan(loss_of(without, plain)).any()
    np.testing.assert_array_equal(loss_of(without, embedded, nowhere), loss_of(weights, embedded))
    arrays = spoken.task.prepare(spoken.model, embedded)
    assert arrays[ALONE + "text_embedding"].shape == (3, 2, 12, 16)
    assert not {"text", ALONE + "text"} & arrays.keys()


def test_room_is_asked_for_embeddings_too(spoken, listening):
    mesh = spoken.mesh.build_on(jax.devices()[:1])
    model, params = latents.encoders(spoken, mesh)
    video = spoken.task.video
    sizes = [
        latents.Encoder(mesh, each, params, video).sample_bytes
        for each in (model, replace(model, text=None))
    ]
    assert sizes[0] - sizes[1] == listening.data.build()[0]["text_embedding"].nbytes


def test_a_run_takes_embeddings_of_its_own_text_encoder_and_no_other(listening, tmp_path):
    checked(listening)()
    mine = listening.model.text
    save_tower(tmp_path / "other", mine, seed=2)
    with pytest.raises(Refusal, match=r"embedded by another text encoder, .*train\.latents"):
        checked(replace(listening, parts_from=(PartFrom("text", str(tmp_path / "other")),)))()
    other = write_tokenizer(tmp_path / "tokenizer", {"pad_token": "<|endoftext|>"})
    model = replace(listening.model, text=replace(mine, tokenizer=str(other)))
    with pytest.raises(Refusal, match="embedded by another text encoder"):
        checked(replace(listening, model=model))()


def test_embeddings_for_a_text_encoder_that_learns_are_refused(listening):
    words = configs.load("configs/svd_stage2_video.py:smoke").model
    for other in (
        replace(listening, trainable=EVERYTHING),
        replace(listening, trainable=LoRA(rank=2, targets=("text.tower.layers.0.*.kernel",))),
        replace(listening, model=words, parts_from=()),
    ):
        trained = replace(other, data=listening.data)
        with pytest.raises(Refusal, match=r"leave (text|vae) out of trainable"):
            checked(trained)


def test_what_learns_is_not_embedded(spoken):
    mesh = spoken.mesh.build_on(jax.devices()[:1])
    model, params = latents.encoders(spoken, mesh)
    assert model.text == spoken.model.text and set(params) == {"vae", "text"}
    words = configs.load("configs/svd_stage2_video.py:smoke")
    for other in (
        replace(spoken, trainable=words.trainable),
        replace(spoken, model=words.model, parts_from=(), trainable=NETWORK),
    ):
        model, params = latents.encoders(other, mesh)
        assert model.text is None and set(params) == {"vae"}


def test_latents_of_before_are_read_and_the_tower_runs(spoken, tmp_path):
    """Those whose manifest knows nothing of captions that are embedded."""
    made = stored_in(replace(spoken, trainable=EVERYTHING), tmp_path)
    with pytest.raises(Refusal, match="latents whose text differ"):
        list(latents.encode(spoken, tmp_path, per_shard=4))
    for part in ("videos", "pictures"):
        path = tmp_path / part / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["encoded"]["text"]
        path.write_text(json.dumps(manifest))
    before = replace(spoken, data=made.data)
    checked(before)()
    arrays = before.task.prepare(before.model, stack([before.data.build()[0]]))
    assert arrays["text"].shape == (1, 12) and arrays[ALONE + "text"].shape == (1, 2, 12)
