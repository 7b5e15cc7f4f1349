"""EvaluateConfig: everything that decides what an evaluation finds."""

from dataclasses import dataclass, field

from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import OpensClips
from vdm_jax.evaluate.protocol import PLAIN, Protocol
from vdm_jax.sample.pipeline import Dtype
from vdm_jax.sample.settings import Settings


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How clips are compared, and how a model draws them.

    real: the storage of the real clips; None where --real names a folder, or where the samples are
    those that a run held out.
    """

    protocol: Protocol = PLAIN
    draw: Settings = field(default_factory=Settings)
    """Settings of the models that are evaluated."""
    real: OpensClips | None = None
    draw_batch: int = 16
    """Clips that a model draws at once."""
    dtype: Dtype | None = None
    """What models compute in; None is float32 on CPU, bfloat16 elsewhere. Networks that measure
    compute in float32."""
    mesh: MeshConfig = MeshConfig()
    """How the devices share the work of a model."""

    def __post_init__(self) -> None:
        if self.draw_batch < 1:
            raise Refusal(f"draw_batch must be at least 1, got {self.draw_batch}")
