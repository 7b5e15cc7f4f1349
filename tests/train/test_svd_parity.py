"""One training step of Stable Video Diffusion beside PyTorch's: loss, gradients, weights, average.

The reference is written from the paper's formulas (arXiv:2311.15127, appendix D; see the
docstrings of `theirs`) over diffusers' modules with the same random weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from PIL import Image
from reference.stable_video import Sizes, picture, pipeline

from vdm_jax.adapters.trainable import NETWORK
from vdm_jax.convert.__main__ import main as convert
from vdm_jax.convert.pipelines import STABLE_VIDEO
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.sample import load
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import VideoShape
from vdm_jax.train import begin
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.optim import AdamW
from vdm_jax.train.step import update

pytestmark = pytest.mark.parity

VIDEO = VideoShape(num_frames=3, height=32, width=48, fps=6.0)
TASK = StableVideo(video=VIDEO, picture_drop=0.0)
# With a small eps the first step is the sign of a gradient, and rounding turns those near zero.
OPTIM = AdamW(
    learning_rate=1e-3, warmup_steps=0, b1=0.9, b2=0.999, eps=1e-4, weight_decay=0.01, clip_norm=1e9
)
DECAY = 0.1  # what the warm-up of the average begins with
KEY = jax.random.key(5)


class Step(NamedTuple):
    """What a step computes; arrays by diffusers' names of the U-Net's parameters."""

    loss: float
    gradients: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    average: dict[str, np.ndarray]


class Draws(NamedTuple):
    """What a step draws, for two clips."""

    strength: np.ndarray
    picture: np.ndarray
    sigma: np.ndarray
    noise: np.ndarray


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    reference = pipeline(Sizes(), seed=11)
    reference.save_pretrained(folder / "diffusers")
    convert(["--from", str(folder / "diffusers"), "--output", str(folder / "ours")])
    return reference, folder / "ours"


@pytest.fixture(scope="module")
def batch():
    video = np.stack([[picture(32, 48, 3 * clip + t) for t in range(3)] for clip in range(2)])
    return {
        "video": video,
        "caption": ["", ""],
        "fps": np.float32([6.0, 12.0]),
        "motion_bucket_id": np.float32([127.0, 30.0]),
    }


@pytest.fixture(scope="module")
def config(models):
    """A run that trains the U-Net of the converted model on."""
    _, folder = models
    unread = MovingShapes()
    model = load.describe(folder).model
    return TrainConfig(
        model=model, task=TASK, data=unread, held_out=unread, optim=OPTIM, trainable=NETWORK,
        init_from=str(folder), batch_size=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ours(config, batch) -> Step:
    built = begin.build(config, MeshConfig().build_on(jax.devices()[:1]))
    state, frozen = built.init()
    arrays = {n: jnp.asarray(a) for n, a in TASK.prepare(config.model, batch).items()}

    step = update(built.model, TASK.loss, OPTIM.build(10), ema_decay=DECAY, accumulate=1)
    after, scalars = jax.jit(step)(state, frozen, arrays, KEY)
    (moments,) = (s for s in jax.tree.leaves(after.opt_state, is_leaf=is_adam) if is_adam(s))
    gradients = jax.tree.map(lambda m: m / (1 - OPTIM.b1), moments.mu)  # after one step
    return Step(
        float(scalars["loss"]), as_theirs(gradients), as_theirs(after.params), as_theirs(after.ema)
    )


def is_adam(part) -> bool:
    return isinstance(part, optax.ScaleByAdamState)


def as_theirs(state: nnx.State) -> dict[str, np.ndarray]:
    """Arrays of the U-Net by the names and in the shapes that diffusers gives them."""
    arrays = {}
    for path, leaf in nnx.to_flat_state(state):
        named = STABLE_VIDEO.table.theirs("/".join(map(str, path)))
        array = np.asarray(leaf.get_value())
        shape = named.how.theirs(array.shape)
        arrays[named.name.removeprefix("unet.")] = named.how.take(array, shape)
    return arrays


def draws() -> Draws:
    """As `StableVideo.loss` and `denoising.loss` split the key of the first step."""
    strength, noise, _, loss = jax.random.split(jax.random.fold_in(KEY, 0), 4)
    level, eps = jax.random.split(loss)
    normal = lambda key, shape: np.asarray(jax.random.normal(key, shape))  # noqa: E731
    return Draws(
        strength=np.exp(-3.0 + 0.5 * normal(strength, (2,))),
        picture=normal(noise, (2, 32, 48, 3)),
        sigma=np.exp(1.0 + 1.6 * normal(level, (2, 1)))[:, 0],
        noise=normal(eps, (2, 3, 16, 24, 4)),
    )


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, -3)))


def latents_of(vae, frames: torch.Tensor) -> torch.Tensor:
    return vae.encode(frames).latent_dist.mode()


def loss_of_theirs(reference, batch, drawn: Draws) -> torch.Tensor:
    """mean (1 + s^2) / s^2 |D(x0 + s n; s) - x0|^2, D in the velocity form."""
    video = channels_first(batch["video"].astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        x0 = latents_of(reference.vae, video.flatten(0, 1)).unflatten(0, (2, 3))
        x0 = x0 * reference.vae.config.scaling_factor
        strength = torch.from_numpy(drawn.strength)
        noisy = video[:, 0] + strength[:, None, None, None] * channels_first(drawn.picture)
        beside = latents_of(reference.vae, noisy)[:, None].expand(-1, 3, -1, -1, -1)
        seen = [
            reference._encode_image(Image.fromarray(clip[0]), "cpu", 1, False)  # noqa: FBT003
            for clip in batch["video"]
        ]
    told = torch.stack(
        [torch.from_numpy(batch["fps"] - 1), torch.from_numpy(batch["motion_bucket_id"]), strength],
        dim=1,
    )
    sigma = torch.from_numpy(drawn.sigma)
    s = sigma[:, None, None, None, None]
    z = x0 + s * channels_first(drawn.noise)
    scaled = torch.cat([z / (s**2 + 1).sqrt(), beside], dim=2)
    answers = [
        reference.unet(
            scaled[i : i + 1], 0.25 * sigma[i].log(), seen[i], added_time_ids=told[i : i + 1]
        ).sample
        for i in range(2)
    ]
    clean = z / (s**2 + 1) - s / (s**2 + 1).sqrt() * torch.cat(answers)
    return ((1 + s**2) / s**2 * (clean - x0) ** 2).mean()


@pytest.fixture(scope="module")
def theirs(models, batch) -> Step:
    reference, _ = models
    unet = reference.unet
    parameters = dict(unet.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    loss = loss_of_theirs(reference, batch, draws())
    loss.backward()
    gradients = {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
        for name, value in parameters.items()
    }
    for name, value in parameters.items():  # what has no gradient decays with us, too
        value.grad = gradients[name]
    torch.optim.AdamW(parameters.values(), 1e-3, (0.9, 0.999), 1e-4, 0.01).step()
    numpy = lambda arrays: {n: a.detach().numpy() for n, a in arrays.items()}  # noqa: E731
    average = {n: DECAY * before[n] + (1 - DECAY) * value for n, value in parameters.items()}
    return Step(loss.item(), numpy(gradients), numpy(parameters), numpy(average))


def distance(a, b):
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)


def test_the_loss_is_theirs(ours, theirs):
    assert abs(ours.loss - theirs.loss) <= 1e-6 * theirs.loss


def idle(name: str) -> bool:
    """Attention to one token does not depend on what asks, nor on its key: gradients are zero,
    which rounding hides in PyTorch's, and AdamW makes of any rounding a step of full length."""
    asks = ".norm2." in name and "transformer_blocks" in name
    return asks or ".attn2.to_q." in name or ".attn2.to_k." in name


def worst(pairs: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(pairs.items(), key=lambda pair: -pair[1])[:4]


def test_every_gradient_is_theirs(ours, theirs):
    assert ours.gradients.keys() == theirs.gradients.keys()
    at_work = {name: g for name, g in theirs.gradients.items() if not idle(name)}
    far = {name: distance(ours.gradients[name], g) for name, g in at_work.items()}
    assert len(far) > 300 and max(far.values()) <= 1e-4, worst(far)
    largest = max(np.abs(g).max() for g in at_work.values())
    for name in theirs.gradients.keys() - at_work.keys():
        assert not ours.gradients[name].any(), name
        assert np.abs(theirs.gradients[name]).max() < 1e-7 * largest, name


@pytest.mark.parametrize("part", ["weights", "average"])
def test_one_update_is_theirs(ours, theirs, part):
    pairs = {n: (getattr(ours, part)[n], v) for n, v in getattr(theirs, part).items()}
    far = {name: distance(*pair) for name, pair in pairs.items() if not idle(name)}
    assert max(far.values()) <= 1e-5, worst(far)
