"""The steps of a long drawing, each a file of a folder: a kill loses none, and none is drawn twice.

The folder says in a note what is drawn into it, and takes nothing else.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vdm_jax.core import folders, page, video
from vdm_jax.core.refusal import Refusal

LOCK = ".lock"


@dataclass(frozen=True)
class Kept:
    """`count` steps in a folder: pictures (suffix ".png") or clips (".mp4", lossless).

    note: the name of the file that says what is drawn.
    """

    folder: Path
    note: str
    suffix: str
    count: int

    @contextmanager
    def begun(self, drawn: Mapping[str, Any], beside: Mapping[str, Any]) -> Iterator[None]:
        """Alone in the folder, whose note says what is `drawn`, and what `beside` tells (JSON).

        Raises Refusal where it holds other things, or what was drawn otherwise, naming in which of
        `drawn`; Unavailable while another process draws into it.
        """
        said = self._said()
        if said is None and self.folder.exists() and set(_names(self.folder)) - {LOCK}:
            raise Refusal(f"{self.folder}: holds other things and no {self.note}; name a new one")
        mine = json.loads(json.dumps(drawn))
        names = [name for name in mine if said is not None and said.get(name) != mine[name]]
        if names:
            raise Refusal(
                f"{self.folder}: holds what was drawn with other {', '.join(names)}; give another "
                "--output"
            )
        with folders.locked(self.folder):
            for left in (*self.folder.glob(".*.mp4.*"), *self._steps.glob(".*.mp4.*")):
                shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
            self._steps.mkdir(exist_ok=True)
            page.replace(self.folder / self.note, json.dumps({**beside, **mine}, indent=1).encode())
            yield

    def missing(self) -> list[int]:
        return [number for number in range(self.count) if not self.path(number).is_file()]

    def path(self, number: int) -> Path:
        return self._steps / f"{number:05d}{self.suffix}"

    def keep(self, number: int, frames: Float[np.ndarray, "t h w 3"], fps: float | int) -> None:
        """Write a step, whole or not at all. Raises Refusal where it is no number."""
        if not np.isfinite(frames).all():
            raise Refusal(
                f"step {number} has values that are no numbers; the weights are bad, or the "
                "settings too strong"
            )
        pictures = np.round(frames * 255).astype(np.uint8)
        if self.suffix == ".mp4":
            video.write(self.path(number), pictures, fps, codec=video.Lossless())
            return
        content = BytesIO()
        Image.fromarray(pictures[0]).save(content, "PNG")
        page.replace(self.path(number), content.getvalue())

    def frames(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Of all steps in order. Raises Refusal where one is damaged."""
        for number in range(self.count):
            path = self.path(number)
            try:
                if self.suffix == ".mp4":
                    yield from video.read(path).frames
                else:
                    yield video.read_image(path)
            except Refusal as refusal:
                raise Refusal(
                    f"{refusal}; delete it, and the same command draws it again"
                ) from None

    @property
    def _steps(self) -> Path:
        return self.folder / "steps"

    def _said(self) -> dict[str, Any] | None:
        path = self.folder / self.note
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except (OSError, ValueError):
            raise Refusal(f"{path}: is damaged; give another --output") from None


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise Refusal(f"{folder}: is no folder")
    return [entry.name for entry in folder.iterdir()]
