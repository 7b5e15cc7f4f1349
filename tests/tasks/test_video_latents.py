"""Latents that stand for several frames, in the tasks that work in latents or make them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.core import mesh as meshes
from vdm_jax.core.config import from_json, to_json
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.joint import WithPictures
from vdm_jax.data.loader import stack
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.patch_discriminator import PatchDiscriminatorConfig
from vdm_jax.models.svd_unet import SVD_TEXT, SVDUNetConfig
from vdm_jax.models.vae import VAEConfig
from vdm_jax.models.video_vae import VideoVAEConfig
from vdm_jax.nn.pieces import Trimmed, Whole
from vdm_jax.tasks import latent
from vdm_jax.tasks.autoencoding import Autoencoding, divergence
from vdm_jax.tasks.stable_interpolation import StableInterpolation
from vdm_jax.tasks.stable_text import StableText
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import ModelConfig, Parts, Sampling, VideoShape, to_signal

VAE = VideoVAEConfig(widths=(4, 8), time_stride=2, groups=4, scaling_factor=0.7)
VIDEO = VideoShape(num_frames=6, height=15, width=16, fps=8.0)
NETWORK = replace(
    SVD_TEXT, widths=(16,), attention_levels=(), heads=(2,), blocks=1, groups=8,
    context_width=8, vec_features=2, vec_width=8,
)  # fmt: skip
MODEL = ModelConfig(NETWORK, WordEncoderConfig(width=8, max_words=8, table_rows=64), vae=VAE)
TASK = StableText(video=VIDEO, sampling=Sampling(Euler(), num_steps=2), decoding=Whole())
CLIPS = MovingShapes(num_frames=6, height=15, width=16, radius=(0.08, 0.1))


def parts(config):
    """A model apart from its parameters, and those, every one of which counts."""
    with meshes.unplaced():
        graphdef, params = nnx.split(config.build(rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(0)
    return graphdef, jax.tree.map(
        lambda a: a + 0.1 * jnp.asarray(rng.standard_normal(a.shape), a.dtype), params
    )


@pytest.fixture(scope="module")
def text():
    return parts(MODEL)


@pytest.fixture(scope="module")
def arrays():
    return jax.tree.map(jnp.asarray, TASK.prepare(MODEL, stack([CLIPS[0], CLIPS[1]])))


def test_a_network_learns_on_half_as_many_latents(text, arrays):
    graphdef, params = text

    @jax.jit
    def run(params, arrays):
        def loss(params):
            return TASK.loss(nnx.merge(graphdef, params), arrays, jax.random.key(0))[0]

        model = nnx.merge(graphdef, params)
        return TASK.clean(model, arrays), jax.value_and_grad(loss)(params)

    x0, (loss, gradients) = run(params, arrays)
    assert x0.shape == (2, *latent.sizes(nnx.merge(graphdef, params), VIDEO)) == (2, 3, 8, 8, 4)
    assert np.isfinite(loss) and loss > 0
    moved = [jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients["network"])]
    assert all(moved)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["vae"]))
    vae = nnx.merge(graphdef, params).vae
    frames = to_signal(jnp.asarray(arrays["video"]))
    np.testing.assert_allclose(x0, 0.7 * vae.encode_video(frames).mean, atol=1e-4)


def test_videos_of_all_frames_are_drawn(text):
    graphdef, params = text
    request = {**TASK.request(MODEL, ["red"], None), "row": np.arange(1, dtype=np.int32)}

    def drawn(task):
        def draw(params, arrays):
            model = nnx.merge(graphdef, params)
            return task.generate(model, arrays, jax.random.key(0), around=lambda denoise: denoise)

        return jax.jit(draw)(params, jax.tree.map(jnp.asarray, request))

    whole = drawn(TASK)
    assert whole.shape == (1, *VIDEO.sizes) and np.isfinite(whole).all()
    pieces = drawn(replace(TASK, decoding=Trimmed(2, 1)))
    assert np.abs(pieces - whole).max() > 0


def test_what_has_no_frames_of_its_own_is_refused():
    TASK.check(MODEL)
    odd = replace(TASK, video=replace(VIDEO, num_frames=5))
    with pytest.raises(Refusal, match=r"a video of 5 frames; .* takes multiples of 2"):
        odd.check(MODEL)
    joint = WithPictures(videos=CLIPS, pictures=replace(CLIPS, num_frames=1), count=1).build()
    with pytest.raises(Refusal, match="a video of 1 frames"):
        TASK.prepare(MODEL, stack([joint[0]]))
    between = StableInterpolation(video=VIDEO)
    with pytest.raises(
        Refusal, match="interpolation encodes single pictures: it needs a VAEConfig"
    ):
        between.check(replace(MODEL, network=replace(NETWORK, in_channels=9)))
    svd = ModelConfig(SVDUNetConfig(), vae=VAE, image_encoder=CLIPVisionConfig())
    with pytest.raises(Refusal, match="Stable Video encodes single pictures"):
        StableVideo(video=VIDEO).check(svd)
    autoencoding = Autoencoding(video=VideoShape(num_frames=3, height=16, width=16))
    with pytest.raises(Refusal, match="a video of 3 frames"):
        autoencoding.check(ModelConfig(vae=VAE))
    autoencoding.check(ModelConfig(vae=VAEConfig(widths=(8, 8), groups=4)))


def test_a_model_of_either_kind_survives_json():
    for vae in (VAE, VAEConfig()):
        assert from_json(to_json(Parts(ModelConfig(vae=vae)))) == Parts(ModelConfig(vae=vae))


def test_kl_counts_each_latent_frame():
    graphdef, params = parts(ModelConfig(vae=VAE))
    task = Autoencoding(video=VideoShape(4, 8, 8), kl_weight=1.0)
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8)
    model = nnx.merge(graphdef, params)
    batch = {"video": jnp.asarray(video), "step": jnp.int32(0)}
    _, scalars = task.loss(model, batch, jax.random.key(0))
    posterior = model.vae.encode_video(to_signal(batch["video"]))
    nats = divergence(posterior) * 2  # of the two latent frames of a video
    np.testing.assert_allclose(scalars["kl"], nats / (4 * 8 * 8 * 3), rtol=1e-5)


def test_a_few_steps_bring_clips_back_better():
    """The autoencoder against a discriminator of clips, which is heard from the first step."""
    discriminator = PatchDiscriminatorConfig(channels=4, layers=1, groups=4, kernel_frames=3)
    model = ModelConfig(vae=VAE, discriminator=discriminator)
    task = Autoencoding(video=VideoShape(4, 16, 16), disc_start=0)
    task.check(model)
    source = MovingShapes(num_frames=4, height=16, width=16)
    video = stack([source[i] for i in range(8)])["video"]
    with meshes.unplaced():
        graphdef, params = nnx.split(model.build(rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state, key):
        def loss(params):
            batch = {"video": jnp.asarray(video), "step": jnp.int32(0)}
            return task.loss(nnx.merge(graphdef, params), batch, key)

        (_, scalars), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, scalars

    state, seen = optimizer.init(params), []
    keys = jax.random.split(jax.random.key(0), 60)
    for key in keys:
        params, state, scalars = step(params, state, key)
        seen.append({name: float(value) for name, value in scalars.items()})
    assert max(one["l1"] for one in seen[-5:]) < 0.6 * seen[0]["l1"]
    assert seen[-1]["generator_weight"] > 0
