"""The tokens of a sentence embedder in both tasks of texts: in pixels, pooled, and in latents."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditioning.test_sentence import TOWER
from conditioning.test_sentence import write as write_tokenizer
from flax import nnx
from tasks import test_stable_text, test_tasks

from vdm_jax.adapters.trainable import NETWORK
from vdm_jax.conditioning.sentence import SentenceEncoderConfig
from vdm_jax.data.loader import stack
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.tasks import denoising

PIXELS = replace(test_tasks.TEXT, caption_drop=0.0)
LATENTS = replace(test_stable_text.TASK, caption_drop=0.0)
CASES = {"pixels": PIXELS, "latents": LATENTS}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    words = write_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer")
    return SentenceEncoderConfig(tower=TOWER, tokenizer=str(words), max_tokens=12)


@pytest.fixture(scope="module", params=CASES)
def case(request, text):
    """A task, the config of its model, its graph, its parameters, and a batch."""
    task, width = CASES[request.param], TOWER.width
    model = replace(test_tasks.WITHOUT, network=replace(test_tasks.NETWORK, token_width=width))
    if request.param == "latents":
        network = replace(
            test_stable_text.NETWORK, context_width=width, attention_levels=(0,), heads=(2,)
        )
        model = replace(test_stable_text.MODEL, network=network)
    model = replace(model, text=text)
    task.check(model)
    graphdef, params = test_stable_text.parts(model)
    video = task.video
    shapes = MovingShapes(
        num_frames=video.num_frames, height=video.height, width=video.width, radius=(0.08, 0.1)
    )
    batch = {**stack([shapes[0], shapes[1]]), "caption": ["a red circle moves up", "blue"]}
    return task, model, graphdef, params, batch


@pytest.fixture(scope="module")
def gradients(case):
    """Arrays -> loss, and its gradient in the network alone; compiled once."""
    task, _, graphdef, params, _ = case
    trained, frozen = NETWORK.split(params, jax.random.key(0))

    @jax.jit
    def run(arrays):
        def loss(trained):
            model = nnx.merge(graphdef, NETWORK.join(trained, frozen))
            return task.loss(model, arrays, jax.random.key(0))[0]

        return jax.value_and_grad(loss)(trained)

    return lambda arrays: run(jax.tree.map(jnp.asarray, arrays))


def test_a_step_with_it_frozen_is_finite_and_every_word_counts(case, gradients):
    task, model, _, _, batch = case
    arrays = task.prepare(model, batch)
    loss, grads = gradients(arrays)
    assert np.isfinite(loss) and {path[0] for path, _ in nnx.to_flat_state(grads)} == {"network"}
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.isfinite(leaf).all(), path
    told = [leaf for path, leaf in jax.tree.leaves_with_path(grads) if "to_k" in str(path)]
    assert not told or any(np.abs(leaf).max() > 0 for leaf in told)
    other = task.prepare(model, {**batch, "caption": ["a blue circle moves up", "blue"]})
    assert gradients(other)[0] != loss


def test_what_is_given_embedded_is_what_its_caption_becomes(case):
    """Padding is zeros: where each token counts, masked or not, it says nothing."""
    task, model, graphdef, params, batch = case
    built = nnx.merge(graphdef, params)
    arrays = task.prepare(model, batch)
    stream = task.condition(built, jax.tree.map(jnp.asarray, arrays)).tokens["text"]
    assert (np.asarray(stream.embedding)[~np.asarray(stream.mask)] == 0).all()
    assert (~stream.mask).sum(1).tolist() == [5, 9]
    embedded = {**batch, denoising.EMBEDDED: np.asarray(stream.embedding)}
    for reads in (model, replace(model, text=None)):
        given = task.prepare(reads, embedded)
        assert "text" not in given
        again = task.condition(built, jax.tree.map(jnp.asarray, given)).tokens["text"]
        np.testing.assert_array_equal(again.embedding, stream.embedding)
        np.testing.assert_array_equal(again.mask, stream.mask)
