"""What is no encoder of VideoMAE is refused, all faults at once."""

import json

import pytest
import torch
from reference import videomae as reference
from transformers import VideoMAEForVideoClassification, VideoMAEModel

from vdm_jax.convert import videomae
from vdm_jax.convert.videomae import Request
from vdm_jax.core.refusal import Refusal


@pytest.fixture(scope="module")
def table():
    return reference.original(reference.model(VideoMAEForVideoClassification))


def refused(table, tmp_path, **options):
    torch.save(table, tmp_path / "file.pth")
    options = {"heads": 4, "image_size": 48, "num_frames": 6, **options}
    with pytest.raises(Refusal) as refusal:
        videomae.write(
            Request(from_=str(tmp_path / "file.pth"), output=str(tmp_path / "out"), **options)
        )
    assert not (tmp_path / "out").exists()
    return str(refusal.value)


def test_all_that_does_not_fit_is_named_at_once(table, tmp_path):
    wrong = dict(table)
    del wrong["blocks.1.attn.qkv.weight"]
    wrong["blocks.2.attn.k_bias"] = torch.zeros(24)
    wrong["fc_norm.bias"] = torch.zeros(25)
    told = refused(wrong, tmp_path)
    for part in (
        "blocks.1.attn.q.weight is missing",
        "blocks.1.attn.v.weight is missing",
        "blocks.2.attn.k_bias is not a weight of this model",
        "fc_norm.bias has the shape [25], not [24]",
    ):
        assert part in told
    assert "(5 tensors)" in told


def test_numbers_that_are_none_are_named(table, tmp_path):
    wrong = {name: tensor.clone() for name, tensor in table.items()}
    for name in ("blocks.0.attn.qkv.weight", "patch_embed.proj.bias"):
        wrong[name].view(-1)[0] = torch.inf
    told = refused(wrong, tmp_path)
    assert "not finite (2 tensors)" in told
    assert "blocks.0.attn.qkv.weight" in told
    whole = {**table, "fc_norm.weight": torch.ones(24, dtype=torch.int64)}
    assert "fc_norm.weight holds int64" in refused(whole, tmp_path)


def test_what_a_file_does_not_say_is_asked_for(table, tmp_path):
    assert "a width of 24 is of no published encoder; give --heads" in refused(
        table, tmp_path, heads=None
    )
    assert "does not divide into 5 heads" in refused(table, tmp_path, heads=5)
    assert "image_size is 50" in refused(table, tmp_path, image_size=50)
    theirs = reference.model(VideoMAEForVideoClassification).state_dict()
    assert "give the folder with its config.json" in refused(theirs, tmp_path)


def test_folders_of_something_else_are_refused(tmp_path):
    reference.model(VideoMAEModel).float().save_pretrained(tmp_path / "theirs")
    request = Request(from_=str(tmp_path / "theirs"), output=str(tmp_path / "out"))
    with pytest.raises(Refusal, match=r"fc_norm\.weight is missing"):
        videomae.write(request)  # pooled, and without the norm that only classifiers have
    config = tmp_path / "theirs" / "config.json"
    said = json.loads(config.read_text())
    for change, told in (
        ({"model_type": "vivit"}, "is of a vivit"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"qv_bias": False}, "qv_bias is False"),
    ):
        config.write_text(json.dumps(said | change))
        with pytest.raises(Refusal, match=told):
            videomae.write(request)
    with pytest.raises(Refusal, match="--from and --output are needed"):
        videomae.main(["--output", "x"])
