"""VideoMAE's encoder: what happens in a video, as one vector.

Tong et al. 2022 (arXiv:2203.12602), and VideoMAE V2, Wang et al. 2023 (arXiv:2303.16727), whose
giant network is what content-debiased FVD compares videos by (Ge et al. 2024, arXiv:2404.12391,
section 4): it was trained by the parts of videos that it was not shown, and on what people do with
things, so that it sees motion where I3D sees mostly the content of frames. A video is cut into
tubes of a few frames by a square of pixels; each becomes a token by one linear map, and sines and
cosines of its number say where it was. After the encoder layers, in which keys have no bias, the
tokens' mean is normed: the result.

Where it differs from the original: nothing but the layout. Videos of another length than it was
trained with have its places interpolated in time, as in the published code of the metric.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.encoder import EncoderLayer, check_sizes, layer_norm
from vdm_jax.nn.init import lecun_normal, streamed
from vdm_jax.nn.resize import mixing

WAVES = 10_000.0  # between the shortest wave of a place and the longest
OFFSET = 0.1  # tubes that the published code adds to what it interpolates to


@dataclass(frozen=True, kw_only=True)
class VideoMAEConfig:
    """Shape of the encoder.

    hidden: width of the perceptron in each layer.
    tube: frames that a token sees. num_frames: of the videos that it was trained with.
    image_size: height and width of a video, a multiple of patch_size.
    norm: "pooled", of the tokens' mean, as in networks fine-tuned to classes; "tokens", of each
        before the mean, as in networks trained by masking alone.
    dtype: what the layers compute in; the norms compute in float32.
    """

    width: int = 768
    hidden: int = 3072
    layers: int = 12
    heads: int = 12
    patch_size: int = 16
    tube: int = 2
    image_size: int = 224
    num_frames: int = 16
    norm: Literal["pooled", "tokens"] = "pooled"
    eps: float = 1e-6
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_sizes(
            self.width,
            self.heads,
            hidden=self.hidden,
            layers=self.layers,
            patch_size=self.patch_size,
            tube=self.tube,
            image_size=self.image_size,
            num_frames=self.num_frames,
        )
        for name, size, part in (
            ("image_size", self.image_size, self.patch_size),
            ("num_frames", self.num_frames, self.tube),
        ):
            if size % part:
                raise Refusal(f"{name} is {size}; it must be a multiple of {part}")
        if not self.eps > 0:
            raise Refusal(f"eps must be above 0, got {self.eps}")

    def build(self, *, rngs: nnx.Rngs) -> "VideoMAE":
        return VideoMAE(self, rngs=streamed(rngs))


class Tubes(nnx.Module):
    """Each tube of pixels times one matrix: a convolution whose stride is its kernel's size."""

    def __init__(self, config: VideoMAEConfig, *, rngs: nnx.Rngs):
        size = config.patch_size
        self.dtype = config.dtype
        self.kernel = nnx.Param(
            lecun_normal(rngs.params(), (config.tube, size, size, 3, config.width)),
            out_sharding=(None, None, None, None, "conv_out"),
        )
        self.bias = nnx.Param(jnp.zeros(config.width), out_sharding=("conv_out",))

    def __call__(self, pixels: Float[Array, "b t h w 3"]) -> Float[Array, "b l d"]:
        """In the order of time, rows, columns."""
        kernel = self.kernel[...].astype(self.dtype)
        tube, size, _, _, width = kernel.shape
        cut = rearrange(
            pixels.astype(self.dtype),
            "b (t a) (h p) (w q) c -> b (t h w) (a p q c)",
            a=tube,
            p=size,
            q=size,
        )
        return cut @ kernel.reshape(-1, width) + self.bias[...].astype(self.dtype)[None, None]


class VideoMAE(nnx.Module):
    """Pixels of videos -> one vector each; see `VideoMAEConfig`."""

    def __init__(self, config: VideoMAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.tubes = Tubes(config, rngs=rngs)
        self.layers = nnx.List(
            EncoderLayer(
                config.width,
                config.hidden,
                config.heads,
                activation="gelu",
                eps=config.eps,
                plain=("to_k",),
                dtype=config.dtype,
                rngs=rngs,
            )
            for _ in range(config.layers)
        )
        self.norm = layer_norm(config.width, eps=config.eps, dtype=config.dtype, rngs=rngs)

    def __call__(self, pixels: Float[Array, "b t h w 3"]) -> Float[Array, "b width"]:
        """One vector for each video, float32.

        pixels: as the weights were trained: `metrics.cd_fvd` says how its own are.

        Raises:
            Refusal: for videos of another size, or whose frames do not divide into tubes.
        """
        config = self.config
        _check(config, pixels.shape)
        x = self.tubes(pixels)
        x = x + jnp.asarray(places(config, pixels.shape[1]), x.dtype)[None]
        for layer in self.layers:
            x = layer(x, None)
        if config.norm == "tokens":
            return self.norm(x).astype(jnp.float32).mean(1)
        return self.norm(x.astype(jnp.float32).mean(1)).astype(jnp.float32)


def places(config: VideoMAEConfig, num_frames: int) -> Float[np.ndarray, "l d"]:
    """What is added to each token of a video: sine and cosine, by turns, of its number.

    Vaswani et al. 2017, section 3.5, with tubes counted in the order of time, rows, columns.
    """
    wanted, trained = num_frames // config.tube, config.num_frames // config.tube
    area = (config.image_size // config.patch_size) ** 2
    pair = np.arange(config.width) // 2
    angle = np.arange(trained * area)[:, None] / WAVES ** (2 * pair / config.width)
    table = np.where(np.arange(config.width) % 2, np.cos(angle), np.sin(angle))
    if wanted != trained:
        shares = mixing(trained, wanted, trained / (wanted + OFFSET))
        table = shares.astype(float) @ table.reshape(trained, -1)
    return table.reshape(-1, config.width).astype(np.float32)


def _check(config: VideoMAEConfig, shape: tuple[int, ...]) -> None:
    _, t, h, w, _ = shape
    size = config.image_size
    if (h, w) != (size, size):
        raise Refusal(f"videos are {h}x{w}; this VideoMAE takes {size}x{size}")
    if not t or t % config.tube:
        raise Refusal(f"videos have {t} frames; VideoMAE takes a multiple of {config.tube}")


VIDEOMAE_BASE = VideoMAEConfig()
"""ViT-B; 86,227,200 weights."""
VIDEOMAE_V2_GIANT = VideoMAEConfig(width=1408, hidden=6144, layers=40, heads=16, patch_size=14)
"""ViT-g, of content-debiased FVD; 1,011,610,752 weights."""
