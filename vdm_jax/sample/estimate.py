"""What drawing a video with Stable Video Diffusion takes: memory, operations, seconds.

Memory is a formula in the shapes of the arrays, with a factor for each platform that was set by
compiling the full-size model ahead of time (`tests/aot`); it errs upwards, by up to a third.
Operations are multiply-adds counted twice, of all convolutions and matrix products. Nothing is
compiled or allocated here.
"""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdm_jax.core import devices
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import VAEConfig
from vdm_jax.nn.attention_forms import TILE
from vdm_jax.nn.platform import platform
from vdm_jax.sample.flops import clip_flops, decoder_flops, encoder_flops, network_flops
from vdm_jax.tasks.task import ModelConfig, abstract

STEP = 64  # pixels by which a size is made smaller
EFFICIENCY = 0.4  # of a device's peak, that a whole clip reaches


class Held(NamedTuple):
    """Arrays of the finest level that live at once: their number.

    network: of all frames, both halves of guidance. decoder: of one chunk at full resolution.
    Compiled at full size in bfloat16 they are 18 and 5.8 on an H100, 30 and 11.2 on TPU v5e, which
    pads heads of 64 features to 128. On CPU small models take 23 and 10.
    """

    network: float
    decoder: float


HELD = {"cpu": Held(24.0, 12.0), "gpu": Held(19.0, 6.0), "tpu": Held(31.0, 12.0)}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One draw on one device. batch: videos at once. chunk: frames decoded at once.

    halves: 2 where guidance compares with the unconditional prediction, else 1.
    """

    num_frames: int
    height: int
    width: int
    batch: int = 1
    chunk: int = 8
    num_steps: int = 25
    halves: int = 2


@dataclass(frozen=True)
class Estimate:
    """Of one draw: bytes of the weights, of everything at the worst moment, and operations."""

    weights_bytes: int
    peak_bytes: int
    flops: float


def estimate(model: ModelConfig, setting: Setting, dtype: str) -> Estimate:
    """What `setting` takes where programs are compiled for, weights and layers in `dtype`.

    `model` is one of Stable Video Diffusion: an `SVDUNetConfig` and the encoders.
    """
    network, vae = model.network, model.vae
    assert isinstance(network, SVDUNetConfig) and isinstance(vae, VAEConfig)
    parameters = count_parameters(model)
    weights = parameters * jnp.dtype(dtype).itemsize
    copied = 4 * parameters if platform() == "cpu" else 0  # its convolutions reorder their kernels
    drawing = _network_bytes(network, vae, setting, dtype)
    held = max(drawing, _decoder_bytes(vae, setting, dtype)) + _kept_bytes(vae, setting)
    return Estimate(weights, weights + copied + held, flops(model, setting))


def count_parameters(model: ModelConfig) -> int:
    """Numbers in the weights of all parts."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract(model)[1]))


def flops(model: ModelConfig, setting: Setting) -> float:
    """Operations of one draw: encoders, every step, decoder.

    The published implementations also attend to the one token of the image: 4% more.
    """
    vae, encoder, network = model.vae, model.image_encoder, model.network
    assert isinstance(network, SVDUNetConfig) and isinstance(vae, VAEConfig)
    assert encoder is not None
    h, w = _latent_size(vae, setting)
    steps = setting.num_steps * setting.halves * network_flops(network, setting.num_frames, h, w)
    pixels = decoder_flops(vae, h, w) * setting.num_frames + encoder_flops(vae, h, w)
    return setting.batch * (steps + pixels + clip_flops(encoder))


def largest_fitting(
    model: ModelConfig, setting: Setting, dtype: str, limit_bytes: int
) -> Setting | None:
    """The first smaller setting that fits: fewer frames decoded at once, then fewer frames (down
    to half), then a smaller size of nearly the same shape. None: the smallest does not."""
    fits = (s for s in _smaller(setting) if estimate(model, s, dtype).peak_bytes <= limit_bytes)
    return next(fits, None)


def device_memory() -> int | None:
    """Bytes that a program may use on one device here: of the host, for a CPU; None: unknown."""
    if jax.default_backend() == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def seconds(operations: float, dtype: str) -> float | None:
    """How long that many operations may take on one device here; None for a device not listed.

    A CPU is timed with one matrix product; of others the peak is known.
    """
    if jax.default_backend() == "cpu":
        return operations / (EFFICIENCY * _timed_flops(dtype))
    kind = jax.local_devices()[0].device_kind
    accelerator = devices.known(kind)
    if accelerator is None:
        return None
    slower = 2 if dtype == "float32" else 1  # TF32 on GPU; a TPU's products are bfloat16 anyway
    return slower * operations / (EFFICIENCY * accelerator.flops)


def _timed_flops(dtype: str, size: int = 1024) -> float:
    """Operations a second of a matrix product, the best of three."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _network_bytes(config: SVDUNetConfig, vae: VAEConfig, setting: Setting, dtype: str) -> int:
    """The skips, what lives beside them at the finest level, and a tile of scores."""
    h, w = _latent_size(vae, setting)
    frames = setting.batch * setting.halves * setting.num_frames
    finest = frames * h * w * config.widths[0] * _computed_bytes(dtype)
    return int(HELD[platform()].network * finest) + TILE


def _decoder_bytes(vae: VAEConfig, setting: Setting, dtype: str) -> int:
    """What lives at full resolution while one chunk is decoded."""
    h, w = _latent_size(vae, setting)
    frames = setting.batch * min(setting.chunk, setting.num_frames)
    finest = frames * h * w * vae.stride**2 * vae.widths[0] * _computed_bytes(dtype)
    return int(HELD[platform()].decoder * finest)


def _kept_bytes(vae: VAEConfig, setting: Setting) -> int:
    """Latents, their conditions and the video, in float32."""
    h, w = _latent_size(vae, setting)
    frames = setting.batch * setting.num_frames * h * w * 4
    return frames * (6 * vae.latent_channels + 2 * 3 * vae.stride**2)


def _computed_bytes(dtype: str) -> int:
    """Of one number in between; XLA's CPU compiler computes in float32."""
    return 4 if platform() == "cpu" else jnp.dtype(dtype).itemsize


def _latent_size(vae: VAEConfig, setting: Setting) -> tuple[int, int]:
    return -(-setting.height // vae.stride), -(-setting.width // vae.stride)


def _smaller(setting: Setting) -> Iterator[Setting]:
    """Settings in the order of what a user would give up first."""
    chunk = min(setting.chunk, setting.num_frames)
    while chunk > 1:
        chunk //= 2
        yield replace(setting, chunk=chunk)
    short = min(setting.height, setting.width)
    for side in range(short, 0, -STEP):
        shape = {
            name: size if side == short else max(STEP, size * side // short // STEP * STEP)
            for name, size in (("height", setting.height), ("width", setting.width))
        }
        for frames in range(setting.num_frames, setting.num_frames // 2, -1):
            yield replace(setting, chunk=1, num_frames=frames, **shape)
