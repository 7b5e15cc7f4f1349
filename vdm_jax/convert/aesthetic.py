"""`python -m vdm_jax.convert.aesthetic --from FILE --output DIR`: a published aesthetic head.

FILE is a torch or safetensors file of linear layers, as LAION's predictors are published: one,
"weight" and "bias" (sa_0_4_vit_l_14_linear.pth), or several, "layers.0.weight" … "layers.7.bias"
(sac+logos+ava1-l14-linearMSE.pth). How many, and how wide, the shapes say. What stands between
layers no file says: the published heads have nothing there, and others are not known here.

The directory is what curation scores pictures by: `python -m vdm_jax.curate … --weights
aesthetic=DIR clip=…`, with the CLIP that the head was fitted to.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from vdm_jax.convert.layout import Shape
from vdm_jax.convert.read.source import open_source
from vdm_jax.convert.read.tensors import count_nonfinite
from vdm_jax.convert.rules import refuse
from vdm_jax.core import checkpoint, command
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.aesthetic import AestheticConfig

PROG = "python -m vdm_jax.convert.aesthetic"
NAME = re.compile(r"(?:(?P<stem>[A-Za-z_][\w.]*?\.)??(?P<place>\d{1,4})\.|)(?P<kind>weight|bias)")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Write a model directory that holds an aesthetic head."""

    from_: str = ""
    """Torch or safetensors file of its linear layers."""
    output: str = ""
    """Directory to write; must not exist, or be empty."""


def main(args: Sequence[str]) -> None:
    request = configs.override(Request(), args, prog=PROG)
    if not request.from_ or not request.output:
        raise Refusal(f"--from and --output are needed; see {PROG} --help")
    checkpoint.check_new(request.output)
    config, weights = read(Path(request.from_))
    checkpoint.save_weights(request.output, configs.to_json(config), weights)
    print(f"{request.output}: an aesthetic head of widths {', '.join(map(str, config.widths))}")


def read(path: Path) -> tuple[AestheticConfig, dict[str, np.ndarray]]:
    """The head in a file, its weights by our names. Raises Refusal for anything else."""
    with open_source(path) as source:
        shapes = {name: info.shape for name, info in source.tensors().items()}
        stems = _layers(path, shapes)
        weights = {}
        for number, stem in enumerate(stems):
            weights[f"layers/{number}/kernel"] = source.read(f"{stem}weight").T
            weights[f"layers/{number}/bias"] = source.read(f"{stem}bias")
    ready = {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}
    refuse(f"{path}: not finite", [name for name, array in ready.items() if count_nonfinite(array)])
    widths = (shapes[f"{stems[0]}weight"][1], *(shapes[f"{stem}bias"][0] for stem in stems))
    return AestheticConfig(widths=widths), ready


def _layers(path: Path, shapes: Mapping[str, Shape]) -> list[str]:
    """What stands before "weight" in each layer's name, in order."""
    odd = [name for name in shapes if not NAME.fullmatch(name)]
    found = {
        name.removesuffix(match["kind"]): match
        for name in shapes
        if (match := NAME.fullmatch(name))
    }
    stems = sorted(found, key=lambda stem: int(found[stem]["place"] or 0))
    wrong = [f"{name} is not of a linear layer" for name in odd]
    if len({found[stem]["stem"] for stem in stems}) > 1:
        wrong.append("layers are of several lists")
    for stem in stems:
        weight, bias = shapes.get(f"{stem}weight", ()), shapes.get(f"{stem}bias", ())
        if len(weight) != 2 or bias != weight[:1]:
            wrong.append(f"{stem}weight and {stem}bias have the shapes {weight} and {bias}")
    if not wrong:
        for before, after in pairwise(stems):
            got, wanted = shapes[f"{after}weight"][1], shapes[f"{before}bias"][0]
            if got != wanted:
                wrong.append(f"{after}weight takes {got} numbers, {before}weight gives {wanted}")
        if shapes[f"{stems[-1]}bias"] != (1,):
            wrong.append("the last layer does not give one number")
    refuse(f"{path} is no aesthetic head", wrong)
    return stems


if __name__ == "__main__":
    command.run(main)
