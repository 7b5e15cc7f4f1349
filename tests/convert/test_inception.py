"""The network of FID reaches its places, whichever file it comes from; others are refused."""

import numpy as np
import pytest
import torch
from reference import inception as reference
from safetensors.torch import save_file

from vdm_jax.convert import inception
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.inception import InceptionConfig


@pytest.fixture(scope="module")
def table():
    return reference.drawn(1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "inception.pth"


def test_a_file_becomes_a_model_directory(table, path, tmp_path, capsys):
    torch.save(table, path)
    inception.main(["--from", str(path), "--output", str(tmp_path / "out")])
    assert "network of FID" in capsys.readouterr().out
    config = configs.from_json(checkpoint.load_config(tmp_path / "out"))
    assert config == InceptionConfig(unit=1)
    stored = checkpoint.stored_weights(tmp_path / "out")
    name = "body/steps/10/chains/1/steps/2"  # the last before the second halving
    kernel, bias = stored.read([f"{name}/kernel", f"{name}/bias"]).values()
    theirs = {key.rpartition(".")[2]: value.numpy() for key, value in table.items() if BLOCK in key}
    scale = table[f"{BLOCK}.bn.weight"].numpy() / np.sqrt(theirs["running_var"] + 1e-3)
    weight = table[f"{BLOCK}.conv.weight"].numpy()
    np.testing.assert_allclose(kernel, weight.transpose(2, 3, 1, 0) * scale, rtol=1e-6)
    shift = theirs["bias"] - theirs["running_mean"] * scale
    np.testing.assert_allclose(bias, shift, rtol=1e-5, atol=1e-7)


BLOCK = "Mixed_6a.branch3x3dbl_3"


def test_safetensors_are_the_same(table, path):
    torch.save(table, path)
    save_file({name: tensor.contiguous() for name, tensor in table.items()}, path.with_suffix(".x"))
    ours, others = inception.read(path)[1], inception.read(path.with_suffix(".x"))[1]
    assert ours.keys() == others.keys()
    assert all((ours[name] == others[name]).all() for name in ours)


def test_all_that_does_not_fit_is_named_at_once(table, path):
    wrong = dict(table)
    del wrong["Mixed_7c.branch_pool.bn.running_mean"]
    wrong["AuxLogits.fc.weight"] = torch.zeros(2, 2)
    wrong["fc.weight"] = torch.zeros(1000, 128)
    torch.save(wrong, path)
    with pytest.raises(Refusal) as refusal:
        inception.read(path)
    assert "3 tensors" in str(refusal.value)
    for part in (
        "Mixed_7c.branch_pool.bn.running_mean is missing",
        "AuxLogits.fc.weight is not a weight",
        "fc.weight has the shape [1000, 128], not [1008, 128]",
    ):
        assert part in str(refusal.value)


def test_numbers_that_no_network_has_are_named(table, path):
    wrong = {name: tensor.clone() for name, tensor in table.items()}
    wrong["Mixed_5b.branch1x1.bn.running_var"][0] = -1
    wrong["Conv2d_2a_3x3.conv.weight"][0, 0, 0, 0] = torch.nan
    torch.save(wrong, path)
    with pytest.raises(Refusal, match=r"Conv2d_2a_3x3\.conv\.weight; Mixed_5b.*running_var"):
        inception.read(path)


def test_another_file_is_refused(path, tmp_path):
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, path)
    with pytest.raises(Refusal, match=r"Conv2d_1a_3x3\.conv\.weight is missing\); pytorch-fid's"):
        inception.read(path)
    with pytest.raises(Refusal, match="--from and --output are needed"):
        inception.main(["--from", str(path)])
