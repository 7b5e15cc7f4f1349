"""Operations of the parts of Stable Video Diffusion, from their shapes.

Multiply-adds counted twice, of convolutions and matrix products; all else is a percent of them.
"""

from itertools import pairwise

from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import TemporalDecoderConfig, VAEConfig


def network_flops(config: SVDUNetConfig, frames: int, height: int, width: int) -> float:
    """Of one evaluation for one video of latents; its context is one token."""
    levels = len(config.widths)
    outer, inner = (9 * config.widths[0] * c for c in (config.in_channels, config.out_channels))
    macs = float(frames * height * width * (outer + inner))
    left, entering = [config.widths[0]], config.widths[0]
    sizes = _levels(config, height, width)
    for level, (pixels, c) in enumerate(zip(sizes, config.widths, strict=True)):
        for _ in range(config.blocks):
            macs += _block_macs(config, level, entering, frames, pixels)
            left.append(c)
            entering = c
        if level + 1 < levels:
            macs += frames * sizes[level + 1] * 9 * c * c
            left.append(c)
    macs += 2 * _res_macs(entering, entering, frames * sizes[-1], in_time=True)
    macs += _transformer_macs(config, levels - 1, frames, sizes[-1])
    for level, pixels in reversed(list(enumerate(sizes))):
        for _ in range(config.blocks + 1):
            macs += _block_macs(config, level, entering + left.pop(), frames, pixels)
            entering = config.widths[level]
        if level:
            macs += frames * sizes[level - 1] * 9 * entering**2
    return 2 * macs


def decoder_flops(config: VAEConfig, height: int, width: int) -> float:
    """Of one frame, from latents of this size."""
    in_time = isinstance(config.decoder, TemporalDecoderConfig)
    widths, pixels = config.widths[::-1], height * width
    macs = pixels * 9 * config.latent_channels * widths[0]
    macs += _middle_macs(widths[0], pixels, in_time=in_time)
    for level, (i, o) in enumerate(pairwise((widths[0], *widths))):
        for entering in (i, *(o,) * config.blocks):
            macs += _res_macs(entering, o, pixels, in_time=in_time)
        if level + 1 < len(widths):
            pixels *= 4
            macs += pixels * 9 * o * o
    return 2.0 * (macs + pixels * 27 * widths[-1])


def encoder_flops(config: VAEConfig, height: int, width: int) -> float:
    """Of one frame, to latents of this size."""
    pixels = height * width * config.stride**2
    macs = pixels * 27 * config.widths[0]
    for level, (i, o) in enumerate(pairwise((config.widths[0], *config.widths))):
        for entering in (i, *(o,) * (config.blocks - 1)):
            macs += _res_macs(entering, o, pixels, in_time=False)
        if level + 1 < len(config.widths):
            pixels //= 4
            macs += pixels * 9 * o * o
    return 2.0 * (macs + _middle_macs(config.widths[-1], pixels, in_time=False))


def clip_flops(config: CLIPVisionConfig) -> float:
    """Of one picture."""
    tokens, c = config.num_tokens, config.width
    each = 4 * c * c + 2 * c * config.hidden + 2 * c * tokens
    return 2.0 * tokens * (config.layers * each + 3 * config.patch_size**2 * c)


def _levels(config: SVDUNetConfig, height: int, width: int) -> list[int]:
    """Pixels of a frame at each level; an odd size is halved upwards."""
    sizes = [(height, width)]
    for _ in config.widths[1:]:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return [h * w for h, w in sizes]


def _block_macs(config, level, entering, frames, pixels):
    macs = _res_macs(entering, config.widths[level], frames * pixels, in_time=True)
    if level in config.attention_levels:
        macs += _transformer_macs(config, level, frames, pixels)
    return macs


def _res_macs(i, o, positions, *, in_time):
    """Two 3x3 convolutions and the projection of the input; two over 3 frames."""
    each = 9 * (i * o + o * o) + i * o * (i != o) + in_time * 6 * o * o
    return positions * each


def _transformer_macs(config, level, frames, pixels):
    """Projections in and out; a block in space (16 c^2 and attention) and one in time (28 c^2)."""
    c, layers = config.widths[level], config.layers[level]
    return frames * pixels * (2 * c * c + layers * (44 * c * c + 2 * c * (pixels + frames)))


def _middle_macs(c, pixels, *, in_time):
    return 2 * _res_macs(c, c, pixels, in_time=in_time) + pixels * (4 * c * c + 2 * c * pixels)
