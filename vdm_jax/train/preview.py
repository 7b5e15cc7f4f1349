"""Preview videos: what the model makes of held-out captions and first frames, beside the truth."""

from pathlib import Path

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from PIL import Image

from vdm_jax.core import gallery, video
from vdm_jax.data.source import Source, near, stack
from vdm_jax.sample.generate import Generator
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.judge import Verdict

DRAW_BATCH = 8  # videos drawn at once
HOLD = 3  # times that the last frame is shown, so that a looping preview rests there


class Previews:
    """Draws the same held-out samples at every call, and has the judge's videos drawn."""

    def __init__(self, config: TrainConfig, mesh: Mesh, held_out: Source):
        self._config, self._held_out = config, held_out
        self._generate = Generator(config.task, config.model, mesh, batch_size=DRAW_BATCH)
        count = min(config.num_previews, len(held_out))
        self._samples = stack([near(held_out, i, config.max_bad) for i in range(count)])

    def draw(self, params: nnx.State) -> np.ndarray:
        """Videos uint8 "n t h w c" of the previewed samples."""
        return self._generate.again(params, self._samples, seed=self._config.seed)

    def write(self, videos: np.ndarray, folder: Path, step: int) -> Path:
        """step_000500.mp4 and .webp: each sample as the model has it, beside the truth."""
        columns = {"model": videos, "held-out clip": self._samples["video"]}
        page = gallery.compare(columns, self._samples["caption"])
        page = np.concatenate([page, np.repeat(page[-1:], HOLD, axis=0)])
        path = folder / f"step_{step:06d}.webp"
        for suffix in (".mp4", ".webp"):
            video.write(path.with_suffix(suffix), page, self._config.task.video.fps)
        return path

    @property
    def first_caption(self) -> str:
        return self._samples["caption"][0]

    def write_ends(self, first: Path, last: Path) -> None:
        """Of a held-out video, the frames that the task is given: pictures to try `sample` with."""
        for path, frame in ((first, 0), (last, -1))[: self._config.task.pictures]:
            Image.fromarray(self._samples["video"][0, frame]).save(path)

    def judge(self, params: nnx.State) -> Verdict | None:
        if self._config.judge is None:
            return None
        return self._config.judge(
            lambda samples: self._generate.again(params, samples, seed=self._config.seed),
            self._held_out,
        )
