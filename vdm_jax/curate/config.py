"""What a curation does: its stages, its rules, and what it writes."""

from dataclasses import dataclass, fields

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.weights import Weights
from vdm_jax.curate.likeness import LIKENESS, Likeness
from vdm_jax.curate.motion import Motion
from vdm_jax.curate.quality import Quality
from vdm_jax.curate.rules import COPY, KEPT, SAME, UNTOLD, Rule
from vdm_jax.curate.shots import BLEND, SHORT, Shots
from vdm_jax.curate.similarity import CLIP, Similarity
from vdm_jax.curate.stage import Stage, StageConfig
from vdm_jax.curate.text import Text
from vdm_jax.curate.weights import WeightedConfig, found
from vdm_jax.data.shard import Provenance

OWN = Provenance(
    title="curated videos", source="files of the user", licence="as of the files", credit=""
)
RULES = (
    Rule("static", "motion >= percentile(motion, 25)"),
    Rule("standing", "standing < 0.9"),
    Rule("text", "text <= 7"),
    Rule("dark", "brightness > 3"),
    Rule("flat", "contrast > 2"),
    Rule("blurred", "sharpness > 0.15"),
    Rule("noisy", "noise < 2.3"),
)
"""The quarter with the least motion, and clips of which 7 % is text, as in Stable Video Diffusion,
appendix C; the rest is our own."""


JUDGING = {"rules", "alike", "same", "told", "vectors", "held_out", "provenance", "patience"}
"""The parts of a config that change nothing of what is found out about a clip."""


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """From videos to shards of clips.

    size: shorter side of the stored frames, in pixels. span: seconds of a video that one worker
    takes at a time; a shot that goes over the end of one becomes two clips. weights: of the stages
    that need some; --weights adds to them. rules: asked one after the other of every clip; the
    first that does not hold rejects it. alike: cosine from which two clips are copies. same: cosine
    of CLIP's vectors from which two clips show the same; None: not asked. told: columns whose
    numbers go with a clip into its samples, as motion_bucket_id does; a clip that lacks one is
    rejected. vectors: those that clips.parquet keeps, "likeness" or "clip". held_out: the last
    share of each video, in clips, that makes the split "test". patience: seconds that a worker may
    take for a second of video, and at least 20.
    """

    size: int = 256
    span: float = 120.0
    shots: Shots = Shots()
    stages: tuple[StageConfig | WeightedConfig, ...] = (Motion(), Quality(), Likeness(), Text())
    weights: tuple[Weights, ...] = ()
    rules: tuple[Rule, ...] = RULES
    alike: float = 0.97
    same: float | None = None
    told: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    held_out: float = 0.1
    patience: float = 30.0
    provenance: Provenance = OWN

    def __post_init__(self) -> None:
        within = {
            "size": ("16 to 2160", 16 <= self.size <= 2160),
            "span": ("above 1", self.span > 1),
            "alike": ("in (0, 1]", 0 < self.alike <= 1),
            "same": ("in (0, 1]", self.same is None or 0 < self.same <= 1),
            "vectors": (f"of {LIKENESS}, {CLIP}", {*self.vectors} <= {LIKENESS, CLIP}),
            "held_out": ("in [0, 1)", 0 <= self.held_out < 1),
            "patience": ("above 0", self.patience > 0),
        }
        for name, (wanted, fine) in within.items():
            if not fine:
                raise Refusal(f"{name} must be {wanted}, got {getattr(self, name)}")

        reasons = [SHORT, BLEND, KEPT, COPY, SAME, UNTOLD, *(rule.reason for rule in self.rules)]
        if twice := next((word for word in reasons if reasons.count(word) > 1), None):
            raise Refusal(f"{twice!r} is the reason of two rules, or one of curation's own words")

    def build(self) -> list[Stage]:
        """The stages, not yet set up; refuses weights that are missing, and rules and `told` that
        read what no stage tells."""
        paths = found(self.stages, self.weights)
        stages = [
            stage.build(paths) if isinstance(stage, WeightedConfig) else stage.build()
            for stage in self.stages
        ]
        sees = any(isinstance(stage, Similarity) for stage in self.stages)
        if not sees and (self.same is not None or CLIP in self.vectors):
            raise Refusal("CLIP's vectors are asked for (same, vectors), but no Similarity stage")
        scores = {name for stage in stages for name in stage.columns}
        if unknown := [name for name in self.told if name not in scores]:
            there = ", ".join(sorted(scores)) or "none"
            raise Refusal(f"told asks for {unknown[0]}, which no stage tells; there are {there}")
        for rule in self.rules:
            rule.check(scores | {"frames", "seconds", "fps", "height", "width"})
        return stages


def settings(config: CurateConfig) -> dict[str, object]:
    """The parts of a config that what was found out about a clip depends on."""
    names = {field.name for field in fields(config)} - JUDGING
    return {name: getattr(config, name) for name in sorted(names)}
