"""What a user may change of how a trained model draws."""

from dataclasses import dataclass, fields
from typing import Any

from vdm_jax.nn.pieces import Chunked


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be changed of how a model draws; None takes the model's own."""

    num_frames: int | None = None
    """Frames of the video; None: the model's own."""
    height: int | None = None
    """Height of the video in pixels; None: the model's own."""
    width: int | None = None
    """Width of the video in pixels; None: the model's own."""
    fps: float | None = None
    """Frames a second, of the file and as the model is told; None: the model's own."""
    num_steps: int | None = None
    """Denoising steps; None: the model's own."""
    guidance_scale: float | None = None
    """How hard the prompt is followed; None: the model's own."""
    min_guidance_scale: float | None = None
    """How hard the picture is followed in the first frame (Stable Video Diffusion)."""
    max_guidance_scale: float | None = None
    """How hard the picture is followed in the last frame (Stable Video Diffusion)."""
    motion_bucket_id: float | None = None
    """How much moves, 0 to 255; 127 is the usual (Stable Video Diffusion)."""
    noise_aug_strength: float | None = None
    """Noise on the picture: more keeps less of it and moves more (Stable Video Diffusion)."""
    decode_chunk_size: int | None = None
    """Frames that are decoded from latents at once: fewer take less memory."""

    def changes(self) -> dict[str, Any]:
        """The settings that are given, by their names in a task."""
        given = {field.name: getattr(self, field.name) for field in fields(Settings)}
        chunk = given.pop("decode_chunk_size")
        if chunk is not None:
            given["decoding"] = Chunked(chunk)
        return {name: value for name, value in given.items() if value is not None}
