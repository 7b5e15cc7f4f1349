"""Weights that stages need and users bring: `--weights NAME=PATH`.

A stage asks for them by a name of its config, so that two stages share what they call alike. What
was not given is refused before any file is looked at; nothing is ever fetched or made up.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.weights import Weights
from vdm_jax.curate.stage import Stage

CLIP_WEIGHTS = (
    "a model directory of CLIP, both towers, which `python -m vdm_jax.convert.whole_clip --from "
    "FOLDER --output PATH` makes of a published one (config.json, model.safetensors, tokenizer)"
)


class Need(NamedTuple):
    """name: of the weights, as in --weights. what: the file or folder, and where one gets it."""

    name: str
    what: str


@runtime_checkable
class WeightedConfig(Protocol):
    """A frozen dataclass that builds a stage, given where its weights are."""

    @property
    def needs(self) -> Sequence[Need]: ...

    def build(self, weights: Mapping[str, Path]) -> Stage:
        """weights: the path of each of `needs` by name; not opened before `Stage.setup`."""
        ...


def found(stages: Iterable[object], weights: Iterable[Weights]) -> dict[str, Path]:
    """Where the weights of all stages are. Raises one Refusal that names all that is missing."""
    paths = {each.name: Path(each.path) for each in weights}
    needs = [
        (type(stage).__name__, need)
        for stage in stages
        if isinstance(stage, WeightedConfig)
        for need in stage.needs
    ]
    missing = [
        f"{stage} needs --weights {need.name}=PATH: {need.what}"
        for stage, need in needs
        if need.name not in paths
    ]
    if missing:
        raise Refusal("; ".join(missing))
    known = {need.name for _, need in needs}
    if unknown := sorted(paths.keys() - known):
        asked = f"they ask for {', '.join(sorted(known))}" if known else "they ask for none"
        raise Refusal(f"--weights {unknown[0]}: no stage of this config asks for it; {asked}")
    return paths
