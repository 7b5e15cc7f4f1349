"""A model directory as one object: pictures and captions in, videos out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import load
from vdm_jax.sample.generate import Generator
from vdm_jax.tasks import space
from vdm_jax.tasks.denoising import EMBEDDED
from vdm_jax.tasks.task import Around, Arrays, Denoising, Pictures, Pretrained, tuned

Dtype = Literal["float32", "bfloat16"]


class Pipeline:
    """A trained or converted model, ready to draw.

        pipeline = Pipeline("models/svd_xt", num_frames=14, height=320, width=576)
        videos = pipeline([picture], seed=0)          # float32 "n t h w 3" in 0..1

    Attributes: `task` (with the settings given) and `model`, the configs of what is loaded.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        dtype: Dtype | None = None,
        mesh: Mesh | None = None,
        batch_size: int = 1,
        on_step: Callable[[], object] | None = None,
        adapt: Callable[[Pretrained], Pretrained] = lambda made: made,
        around: Around = lambda denoise: denoise,
        **settings: Any,
    ):
        """Load the weights in `directory` onto `mesh` (None: all devices share the batch).

        dtype: of weights and layers; None is float32 on CPU, bfloat16 elsewhere.
        batch_size: videos drawn at once. on_step: called after each evaluation of the denoiser.
        settings: of the model's task, by name: num_frames, num_steps, motion_bucket_id, …
        adapt: a change of model and task, of which the weights stay those in `directory`.
        around: a change of the denoiser, as `diffusion.windows.windowed` makes.

        Raises Refusal for a directory that holds no such model, or a setting that it has not.
        """
        mesh = MeshConfig().build() if mesh is None else mesh
        config = load.describe(Path(directory))
        model = load.in_dtype(config.model, dtype or default_dtype())
        made = adapt(Pretrained(model, tuned(config.task, settings)))
        self.model, self.task = made.model, made.task
        self._generate = Generator(
            self.task, self.model, mesh, batch_size=batch_size, on_step=on_step, around=around
        )
        self._params = load.weights(
            Path(directory), config, self.model, mesh, dtype or default_dtype()
        )

    @property
    def frame(self) -> tuple[int, int, int]:
        """Rows, columns and channels of a frame in the space that the network works in."""
        return space.frame(self.model, self.task.video)

    @property
    def span(self) -> int:
        """Frames of a video that each frame in that space stands for."""
        return space.span(self.model, self.task.video)

    @property
    def batch_size(self) -> int:
        """Videos drawn at once: as asked for, up to what the mesh can share."""
        return self._generate.batch_size

    def evaluations(self, count: int) -> int:
        """How often `on_step` is called while `count` videos are drawn."""
        if not isinstance(self.task, Denoising):
            return 0
        steps = self.task.sampling.num_steps * self.task.sampling.sampler.evaluations
        return -(-count // self._generate.batch_size) * steps

    def __call__(
        self,
        pictures: Pictures | None,
        captions: Sequence[str] | None = None,
        *,
        seed: int = 0,
        given: Mapping[str, np.ndarray] | None = None,
    ) -> Float[np.ndarray, "n t h w 3"]:
        """A video in 0..1 for each picture (uint8, any size), each caption, or each pair of them.

        A task that reads two pictures a video takes them one after the other.
        given: arrays with one entry for each video, in place of what follows from the seed:
        "latents" (unit noise, as of `noise`), "row" (the number that a video's randomness follows
        from, with the seed), and for Stable Video Diffusion "image_noise" (unit noise that is added
        to the picture, "n h w 3"). A model that reads text takes "text_embedding", "n l d" (as of
        `embed`), in place of captions: any number of tokens; one of zeros is padding.
        """
        given = given or {}
        embedded = given.get(EMBEDDED)
        if any(captions or ()) and embedded is not None:
            raise Refusal(f"give captions or {EMBEDDED}, not both")
        said = captions if embedded is None else embedded
        count = 0 if said is None else len(said)
        if pictures is not None:
            count = len(pictures) // max(1, self.task.pictures)
        if count == 0 or (captions is not None and len(captions) != count):
            raise Refusal("give one or more pictures, captions, or a caption for each picture")
        words = [""] * count if captions is None else captions
        signal = self._generate.signal(self._params, words, pictures, seed=seed, given=given)
        return np.clip(signal / 2 + 0.5, 0, 1)

    def draw(
        self,
        captions: Sequence[str],
        pictures: Pictures | None = None,
        *,
        given: Mapping[str, np.ndarray],
        seed: int = 0,
        part: int = 0,
    ) -> Float[np.ndarray, "n t h w c"]:
        """Videos in the space that the network works in, before they are decoded.

        given: as in a call; tasks that are told frames read "known", "n t", and "given",
        "n t h w c", in that space. part: of a video that is drawn in parts, a number of its own.
        """
        return self._generate.draw(
            self._params, captions, pictures, given=given, seed=seed, part=part
        )

    def encode(self, videos: UInt8[np.ndarray, "n t h w 3"]) -> Float[np.ndarray, "n T H W c"]:
        """Videos of the task's size in the space that the network works in."""
        return self._generate.encode(self._params, videos)

    def decode(self, x0: Float[np.ndarray, "n t h w c"]) -> Float[np.ndarray, "n T H W 3"]:
        """What `draw` drew, of any number of frames, as videos in 0..1."""
        return np.clip(self._generate.decode(self._params, x0) / 2 + 0.5, 0, 1)

    def invert(
        self,
        x0: Float[np.ndarray, "n t h w c"],
        captions: Sequence[str],
        pictures: Pictures | None = None,
    ) -> Float[np.ndarray, "n t h w c"]:
        """The unit noise ("latents") that videos of `encode` come from under these captions.

        By DDIM walked upwards (`diffusion.sampler.invert`), without guidance.
        """
        return self._generate.invert(self._params, x0, captions, pictures)

    def embed(self, captions: Sequence[str]) -> Arrays:
        """Captions as what `given` takes in their place; nothing for a model without text."""
        return self._generate.embed(self._params, captions)

    def noise(self, seed: int, count: int = 1) -> Float[np.ndarray, "n t h w c"]:
        """The "latents" that `seed` draws for `count` captions, in the space of the network."""
        return self._generate.noise(seed, count)

    def again(
        self, samples: Mapping[str, Any], rows: Sequence[int], *, seed: int = 0
    ) -> Float[np.ndarray, "n t h w 3"]:
        """What the model makes of a batch of a source: of its captions, its first frames, …

        A video depends on its sample, its number in `rows` and the seed, not on its neighbours.
        """
        signal = self._generate.signal_again(self._params, samples, rows, seed=seed)
        return np.clip(signal / 2 + 0.5, 0, 1)


def default_dtype() -> Dtype:
    """What this machine computes fastest in: bfloat16, but float32 on CPU."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
