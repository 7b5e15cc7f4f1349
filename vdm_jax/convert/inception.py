"""`python -m vdm_jax.convert.inception --from FILE --output DIR`: the network of FID.

FILE is pytorch-fid's pt_inception-2015-12-05-6726825d.pth, or a safetensors file of the same names:
the weights of TensorFlow's graph "inception-2015-12-05", by which FID and the Inception Score are
defined. Each batch norm is multiplied into the convolution before it. How wide it is, the shapes
say.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdm_jax.convert import layout
from vdm_jax.convert.layout import Layout, Shape
from vdm_jax.convert.plan import built_shapes
from vdm_jax.convert.read.source import open_source
from vdm_jax.convert.read.tensors import Source, count_nonfinite
from vdm_jax.convert.rules import Move, Rule, Table, moves, one, refuse, rules, unbiased
from vdm_jax.core import checkpoint, command
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.inception import BATCH_NORM_EPS, NETWORK, InceptionConfig, filters

PROG = "python -m vdm_jax.convert.inception"
STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
TRIPLE = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
LAST = (
    "branch1x1",
    *("branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
    *("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b"),
    "branch_pool",
)
BLOCKS = {
    "5bcd": ("branch1x1", "branch5x5_1", "branch5x5_2", *TRIPLE, "branch_pool"),
    "6a": ("branch3x3", *TRIPLE),
    "6bcde": (
        "branch1x1",
        *(f"branch7x7_{number}" for number in (1, 2, 3)),
        *(f"branch7x7dbl_{number}" for number in (1, 2, 3, 4, 5)),
        "branch_pool",
    ),
    "7a": ("branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{number}" for number in (1, 2, 3, 4))),
    "7bc": LAST,
}
"""What each block calls its convolutions, in the order of the network; a letter for each block."""
NORM = {"weight": "gain", "bias": "shift", "running_mean": "mean", "running_var": "variance"}
UNUSED = re.compile(r"fc\.bias|.*\.bn\.num_batches_tracked")
FIRST = "Conv2d_1a_3x3.conv.weight"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Write a model directory that holds the network of FID."""

    from_: str = ""
    """pytorch-fid's file, of torch or safetensors."""
    output: str = ""
    """Directory to write; must not exist, or be empty."""


def main(args: Sequence[str]) -> None:
    request = configs.override(Request(), args, prog=PROG)
    if not request.from_ or not request.output:
        raise Refusal(f"--from and --output are needed; see {PROG} --help")
    checkpoint.check_new(request.output)
    config, weights = read(Path(request.from_))
    checkpoint.save_weights(request.output, configs.to_json(config), weights)
    count = sum(array.size for array in weights.values())
    print(f"{request.output}: the Inception network of FID, {count:,} numbers")


def names() -> Iterator[str]:
    """What pytorch-fid calls each convolution, in the order of the network."""
    yield from (f"Conv2d_{name}" for name in STEM)
    for blocks, branches in BLOCKS.items():
        for letter in blocks[1:]:
            yield from (f"Mixed_{blocks[0]}{letter}.{branch}" for branch in branches)


def _table() -> Table[Layout]:
    """Every number of their file; those of a batch norm lie beside the kernel that it scales."""
    found: list[Rule] = []
    for theirs, ours in zip(names(), filters(NETWORK), strict=True):
        found += one(f"{theirs}.conv.weight", f"{ours}/kernel", layout.CONV)
        for name, role in NORM.items():
            found += one(f"{theirs}.bn.{name}", f"{ours}/{role}")
    return Table(rules(tuple(found), unbiased("fc", "head")))


TABLE = _table()


def read(path: Path) -> tuple[InceptionConfig, dict[str, np.ndarray]]:
    """The network in a file, its weights by our names. Raises Refusal for anything else."""
    with open_source(path) as source:
        infos = source.tensors()
        theirs = {name: info.shape for name, info in infos.items() if not UNUSED.fullmatch(name)}
        config = _config(path, theirs)
        wanted = built_shapes(config)
        ready, wrong = moves(theirs, _normed(wanted), TABLE)
        refuse(f"{path} is not the network of FID", wrong)
        brought = {move.ours: _brought(source, move) for move in ready}
    odd = [move.theirs for move in ready if _odd(move.ours, brought[move.ours])]
    refuse(f"{path}: not finite, or a variance below 0", odd)
    folded = {name: array for path in filters(NETWORK) for name, array in _folded(path, brought)}
    weights = {**folded, "head/kernel": brought["head/kernel"]}
    return config, {name: np.ascontiguousarray(weights[name], np.float32) for name in wanted}


def _config(path: Path, theirs: Mapping[str, Shape]) -> InceptionConfig:
    first = theirs.get(FIRST, ())
    if len(first) != 4 or first[0] < 2:
        got = f"has the shape {list(first)}" if first else "is missing"
        raise Refusal(
            f"{path} is not the network of FID ({FIRST} {got}); pytorch-fid's "
            "pt_inception-2015-12-05-6726825d.pth is needed"
        )
    return InceptionConfig(unit=first[0] // 2)


def _normed(ours: Mapping[str, Shape]) -> dict[str, Shape]:
    """Our shapes with the four numbers of a batch norm in the place of each bias."""
    shapes = {}
    for name, shape in ours.items():
        stem, _, kind = name.rpartition("/")
        roles = NORM.values() if kind == "bias" else [kind]
        shapes |= {f"{stem}/{role}": shape for role in roles}
    return shapes


def _brought(source: Source, move: Move) -> np.ndarray:
    return move.layout.bring(source.read(move.theirs), move.our_shape).astype(np.float64)


def _odd(name: str, array: np.ndarray) -> bool:
    below = name.endswith("/variance") and bool((array < 0).any())
    return below or bool(count_nonfinite(np.ascontiguousarray(array)))


def _folded(path: str, brought: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Kernel and bias of a convolution with the batch norm after it (Ioffe and Szegedy 2015)."""
    gain, shift, mean, variance = (brought[f"{path}/{role}"] for role in NORM.values())
    scale = gain / np.sqrt(variance + BATCH_NORM_EPS)
    yield f"{path}/kernel", brought[f"{path}/kernel"] * scale
    yield f"{path}/bias", shift - mean * scale


if __name__ == "__main__":
    command.run(main)
