"""The network of FID in torch, in float64, written down from its published description.

Szegedy et al. 2015 (arXiv:1512.00567) with the quirks of TensorFlow's graph of 2015-12-05; the
weights by the names of pytorch-fid's file, every width a multiple of `unit` (16: published).
"""

import jax.numpy as jnp
import torch
import torch.nn.functional as F  # noqa: N812
from flax import nnx

from vdm_jax.convert import inception
from vdm_jax.core import mesh as meshes
from vdm_jax.models.inception import InceptionConfig

C7 = {"6b": 8, "6c": 10, "6d": 10, "6e": 12}


def shapes(unit, classes=1008):
    """Name of each convolution -> (out, in, rows, columns); in the order of the file."""
    found = {}

    def add(name, o, i, rows=1, columns=1):
        found[name] = (o * unit, 3 if i is None else i * unit, rows, columns)

    for name, o, i, size in (
        ("Conv2d_1a_3x3", 2, None, 3), ("Conv2d_2a_3x3", 2, 2, 3), ("Conv2d_2b_3x3", 4, 2, 3),
        ("Conv2d_3b_1x1", 5, 4, 1), ("Conv2d_4a_3x3", 12, 5, 3),
    ):  # fmt: skip
        add(name, o, i, size, size)
    for block, i, pooled in (("5b", 12, 2), ("5c", 16, 4), ("5d", 18, 4)):
        m = f"Mixed_{block}.branch"
        add(f"{m}1x1", 4, i)
        add(f"{m}5x5_1", 3, i)
        add(f"{m}5x5_2", 4, 3, 5, 5)
        add(f"{m}3x3dbl_1", 4, i)
        add(f"{m}3x3dbl_2", 6, 4, 3, 3)
        add(f"{m}3x3dbl_3", 6, 6, 3, 3)
        add(f"{m}_pool", pooled, i)
    m = "Mixed_6a.branch"
    add(f"{m}3x3", 24, 18, 3, 3)
    add(f"{m}3x3dbl_1", 4, 18)
    add(f"{m}3x3dbl_2", 6, 4, 3, 3)
    add(f"{m}3x3dbl_3", 6, 6, 3, 3)
    for block, c in C7.items():
        m = f"Mixed_{block}.branch"
        add(f"{m}1x1", 12, 48)
        add(f"{m}7x7_1", c, 48)
        add(f"{m}7x7_2", c, c, 1, 7)
        add(f"{m}7x7_3", 12, c, 7, 1)
        add(f"{m}7x7dbl_1", c, 48)
        add(f"{m}7x7dbl_2", c, c, 7, 1)
        add(f"{m}7x7dbl_3", c, c, 1, 7)
        add(f"{m}7x7dbl_4", c, c, 7, 1)
        add(f"{m}7x7dbl_5", 12, c, 1, 7)
        add(f"{m}_pool", 12, 48)
    m = "Mixed_7a.branch"
    add(f"{m}3x3_1", 12, 48)
    add(f"{m}3x3_2", 20, 12, 3, 3)
    add(f"{m}7x7x3_1", 12, 48)
    add(f"{m}7x7x3_2", 12, 12, 1, 7)
    add(f"{m}7x7x3_3", 12, 12, 7, 1)
    add(f"{m}7x7x3_4", 12, 12, 3, 3)
    for block, i in (("7b", 80), ("7c", 128)):
        m = f"Mixed_{block}.branch"
        add(f"{m}1x1", 20, i)
        add(f"{m}3x3_1", 24, i)
        add(f"{m}3x3_2a", 24, 24, 1, 3)
        add(f"{m}3x3_2b", 24, 24, 3, 1)
        add(f"{m}3x3dbl_1", 28, i)
        add(f"{m}3x3dbl_2", 24, 28, 3, 3)
        add(f"{m}3x3dbl_3a", 24, 24, 1, 3)
        add(f"{m}3x3dbl_3b", 24, 24, 3, 1)
        add(f"{m}_pool", 12, i)
    return found


def drawn(unit, seed=0, classes=1008):
    """Random weights by the names of pytorch-fid's file, such that signals stay near 1."""
    g = torch.Generator().manual_seed(seed)
    table = {}
    for name, shape in shapes(unit).items():
        o, fan_in = shape[0], shape[1] * shape[2] * shape[3]
        table[f"{name}.conv.weight"] = torch.randn(shape, generator=g) * (2 / fan_in) ** 0.5
        table[f"{name}.bn.weight"] = 1 + 0.1 * torch.randn(o, generator=g)
        table[f"{name}.bn.bias"] = 0.1 * torch.randn(o, generator=g)
        table[f"{name}.bn.running_mean"] = 0.1 * torch.randn(o, generator=g)
        table[f"{name}.bn.running_var"] = 0.5 + torch.rand(o, generator=g)
        table[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
    table["fc.weight"] = torch.randn(classes, 128 * unit, generator=g) / (128 * unit) ** 0.5
    table["fc.bias"] = torch.randn(classes, generator=g)
    return table


class Reference:
    """Pictures "f 3 h w" in -1..1 -> (features, logits without bias)."""

    def __init__(self, table):
        self.table = {name: tensor.double() for name, tensor in table.items()}

    def conv(self, x, name, stride=1, padding=(0, 0)):
        w = self.table
        x = F.conv2d(x, w[f"{name}.conv.weight"], None, stride, padding)
        mean, variance = w[f"{name}.bn.running_mean"], w[f"{name}.bn.running_var"]
        gain, shift = w[f"{name}.bn.weight"], w[f"{name}.bn.bias"]
        return torch.relu(F.batch_norm(x, mean, variance, gain, shift, eps=1e-3))

    def run(self, x, block, *names, stride=1):
        """The convolutions of one branch, of "same" size but for the last where stride is 2."""
        for name in names:
            full = f"Mixed_{block}.branch{name}"
            rows, columns = self.table[f"{full}.conv.weight"].shape[2:]
            last = stride == 2 and name == names[-1]
            padding = (0, 0) if last else (rows // 2, columns // 2)
            x = self.conv(x, full, 2 if last else 1, padding)
        return x

    def __call__(self, x):
        x = x.double()
        x = self.conv(x, "Conv2d_1a_3x3", 2)
        x = self.conv(x, "Conv2d_2a_3x3")
        x = F.max_pool2d(self.conv(x, "Conv2d_2b_3x3", 1, 1), 3, 2)
        x = self.conv(x, "Conv2d_3b_1x1")
        x = F.max_pool2d(self.conv(x, "Conv2d_4a_3x3"), 3, 2)
        for block in ("5b", "5c", "5d"):
            x = torch.cat([
                self.run(x, block, "1x1"),
                self.run(x, block, "5x5_1", "5x5_2"),
                self.run(x, block, "3x3dbl_1", "3x3dbl_2", "3x3dbl_3"),
                self.run(mean(x), block, "_pool"),
            ], 1)  # fmt: skip
        x = torch.cat([
            self.run(x, "6a", "3x3", stride=2),
            self.run(x, "6a", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3", stride=2),
            F.max_pool2d(x, 3, 2),
        ], 1)  # fmt: skip
        for block in C7:
            x = torch.cat([
                self.run(x, block, "1x1"),
                self.run(x, block, "7x7_1", "7x7_2", "7x7_3"),
                self.run(x, block, *(f"7x7dbl_{n}" for n in range(1, 6))),
                self.run(mean(x), block, "_pool"),
            ], 1)  # fmt: skip
        x = torch.cat([
            self.run(x, "7a", "3x3_1", "3x3_2", stride=2),
            self.run(x, "7a", "7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4", stride=2),
            F.max_pool2d(x, 3, 2),
        ], 1)  # fmt: skip
        for block, pool in (("7b", mean), ("7c", lambda x: F.max_pool2d(x, 3, 1, 1))):
            a = self.run(x, block, "3x3_1")
            b = self.run(x, block, "3x3dbl_1", "3x3dbl_2")
            x = torch.cat([
                self.run(x, block, "1x1"),
                self.run(a, block, "3x3_2a"),
                self.run(a, block, "3x3_2b"),
                self.run(b, block, "3x3dbl_3a"),
                self.run(b, block, "3x3dbl_3b"),
                self.run(pool(x), block, "_pool"),
            ], 1)  # fmt: skip
        features = x.mean((2, 3))
        return features, features @ self.table["fc.weight"].T


def mean(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def pair(unit, folder):
    """Our network with random weights that went through the converter, and the definition."""
    table = drawn(unit)
    torch.save(table, folder / "inception.pth")
    config, weights = inception.read(folder / "inception.pth")
    assert config == InceptionConfig(unit=unit)
    graphdef, shapes = nnx.split(
        meshes.build_abstract(lambda: config.build(rngs=nnx.Rngs(0))), nnx.Param
    )
    filled = [
        (path, leaf.replace(jnp.asarray(weights["/".join(map(str, path))])))
        for path, leaf in nnx.to_flat_state(shapes)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(filled)), Reference(table)
