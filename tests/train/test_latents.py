"""Latents computed once are those that a run would compute, and are refused where they are not."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core import checkpoint, command
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import unplaced
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.captions import SVD_SHARES
from vdm_jax.data.joint import WithPictures
from vdm_jax.data.latents import LatentClips
from vdm_jax.data.loader import stack
from vdm_jax.data.shard import Manifest, Provenance, ShardedClips, Writer
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.tasks.task import ModelConfig, Parts, abstract
from vdm_jax.train import begin, latents, loop, precomputed
from vdm_jax.train.config import PartFrom

SAMPLES, PER_SHARD = 10, 4
FILES = ("manifest.json", *(f"train/{n:05d}.array_record" for n in range(3)))


@pytest.fixture(scope="module")
def config():
    """The smallest image-to-video run, on few samples, of which it has fresh weights."""
    made = configs.load("configs/svd_stage3_image_to_video.py:smoke")
    return replace(made, data=replace(made.data, length=SAMPLES), batch_size=8)


@pytest.fixture(scope="module")
def stored(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents") / "all"
    (line,) = latents.encode(config, folder, per_shard=PER_SHARD)
    assert "10 samples in 3 shards" in line and "3 of them written now" in line
    return folder


@pytest.fixture(scope="module")
def reading(config, stored):
    """The same run, on what was stored."""
    return replace(config, data=LatentClips(directory=str(stored)))


@pytest.fixture(scope="module")
def params(config):
    """All weights of the run, moved, so that the network says something."""
    with unplaced():
        drawn = nnx.state(config.build_model(), nnx.Param)
    rng = np.random.default_rng(0)
    network = jax.tree.map(
        lambda a: a + jnp.asarray(0.1 * rng.standard_normal(a.shape), a.dtype), drawn["network"]
    )
    return nnx.State({**drawn, "network": network})


def same_bytes(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def test_samples_keep_what_the_videos_said(config, stored):
    videos, source = config.data.build(), LatentClips(directory=str(stored)).build()
    assert len(source) == len(videos)
    for i in (0, 5, 9):
        for name in ("caption", "fps", "key"):
            assert source[i][name] == videos[i][name]
        np.testing.assert_array_equal(source[i]["picture"], videos[i]["video"][0])
        assert source[i]["latents"].shape == (3, 8, 8, 4)
        assert source[i]["latents"].dtype == np.float16


def test_a_clips_numbers_and_the_caption_of_the_sample_are_kept(config, tmp_path):
    writer, rng = Writer(tmp_path / "clips", "train"), np.random.default_rng(0)
    said = {"image": "i", "video": "v", "summary": "s"}
    for n in range(6):
        told = {"motion_bucket_id": 40.0 * n}
        frames = rng.integers(0, 255, (3, 16, 16, 3), np.uint8)
        writer.add(f"c{n}", frames, 7 + n, "first", captions=said, told=told)
    provenance = Provenance(title="", source="", licence="", credit="")
    Manifest(provenance=provenance, splits={"train": writer.close()}).save(tmp_path / "clips")
    data = ShardedClips(
        directory=str(tmp_path / "clips"), split="train", windows=Windows(num_frames=3),
        height=16, width=16, captions=SVD_SHARES,
    )  # fmt: skip
    list(latents.encode(replace(config, data=data), tmp_path / "latents"))
    videos, source = data.build(), LatentClips(directory=str(tmp_path / "latents")).build()
    batch, wanted = (stack([each[i] for i in range(6)]) for each in (source, videos))
    assert batch["caption"] == wanted["caption"] and len({*batch["caption"]} & {"i", "v", "s"}) > 1
    assert batch["motion_bucket_id"].tolist() == [0, 40, 80, 120, 160, 200]
    arrays = config.task.prepare(config.model, batch)
    assert arrays["micro"][:, :2].tolist() == [[7 + n, 40 * n] for n in range(6)]


def test_the_loss_is_that_of_encoding_anew(config, reading, params):
    graphdef, _ = abstract(config.model)
    task = config.task

    def loss_of(samples):
        arrays = task.prepare(config.model, stack(samples))
        run = jax.jit(lambda p, a: task.loss(nnx.merge(graphdef, p), a, jax.random.key(0))[0])
        return float(run(params, arrays))

    online, stored = (
        loss_of([source[i] for i in (1, 4, 8)])
        for source in (config.data.build(), reading.data.build())
    )
    assert np.isfinite(online) and online > 0.1
    assert stored == pytest.approx(online, rel=1e-3)
    video = config.data.build()[1]["video"][None]
    exact = task.clean(nnx.merge(graphdef, params), {"video": jnp.asarray(video)})
    kept = reading.data.build()[1]["latents"].astype(np.float32)
    largest = float(jnp.abs(exact).max())
    np.testing.assert_allclose(kept / largest, exact[0] / largest, rtol=0, atol=2**-11)


def test_the_number_of_devices_does_not_count(config, stored):
    mesh = config.mesh.build_on(jax.devices()[:1])
    alone = latents.Encoder(mesh, *latents.encoders(config, mesh), config.task.video)
    source = LatentClips(directory=str(stored)).build()
    for i in (0, 9):
        made = alone([config.data.build()[i]])
        np.testing.assert_array_equal(made["latents"][0], source[i]["latents"])


def test_machines_that_share_the_work_make_the_same_files(config, stored, tmp_path):
    (first,) = latents.encode(config, tmp_path / "x", part=(0, 2), per_shard=PER_SHARD)
    assert "2 shards written, 1 missing yet" in first
    assert not (tmp_path / "x" / "manifest.json").exists()
    list(latents.encode(config, tmp_path / "x", part=(1, 2), per_shard=PER_SHARD))
    assert same_bytes(stored, tmp_path / "x")


@dataclass(frozen=True)
class Failing:
    """Samples up to one at which the machine goes down."""

    shapes: MovingShapes
    last: int

    def build(self):
        return self

    @property
    def fingerprint(self):
        return self.shapes.fingerprint

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        if index == self.last:
            raise KeyboardInterrupt
        return self.shapes[index]


def test_a_killed_command_goes_on_with_what_is_missing(config, stored, tmp_path):
    killed = replace(config, data=Failing(config.data, 6))
    with pytest.raises(KeyboardInterrupt):
        list(latents.encode(killed, tmp_path / "x", per_shard=PER_SHARD))
    (tmp_path / "x" / "train" / "00001.array_record.part").write_bytes(b"half")
    first = (tmp_path / "x" / FILES[1]).stat().st_mtime_ns
    (line,) = latents.encode(config, tmp_path / "x", per_shard=PER_SHARD)
    assert "2 of them written now" in line
    assert (tmp_path / "x" / FILES[1]).stat().st_mtime_ns == first
    assert same_bytes(stored, tmp_path / "x")
    assert not list((tmp_path / "x").rglob("*.part"))


def test_pictures_beside_videos_have_a_folder_of_their_own(config, tmp_path):
    stills = replace(config.data, num_frames=1, length=3)
    joint = replace(config, data=WithPictures(videos=config.data, pictures=stills, count=2))
    list(latents.encode(joint, tmp_path, per_shard=5))
    parts = (LatentClips(directory=str(tmp_path / name)) for name in ("videos", "pictures"))
    source = WithPictures(videos=next(parts), pictures=next(parts), count=2).build()
    assert precomputed.sizes(source) == (3, 16, 16, 3)
    assert source[0]["pictures"]["latents"].shape == (2, 1, 8, 8, 4)
    assert "picture" not in source[0]["pictures"]


def checked(config):
    mesh = config.mesh.build()
    built = begin.build(config, mesh)
    sources = loop.open_sources(config, mesh)
    precomputed.check(config, sources, built)
    return precomputed.checked(config, sources[0], built.init)


def test_a_run_takes_latents_of_its_own_encoder_and_no_other(reading):
    checked(reading)()
    with pytest.raises(Refusal, match="latents of another autoencoder"):
        checked(replace(reading, seed=7))()
    scaled = replace(reading.model.vae, scaling_factor=0.2)
    with pytest.raises(Refusal, match=r"times 0\.18215; this model takes .* times 0\.2"):
        checked(replace(reading, model=replace(reading.model, vae=scaled)))()


def test_latents_where_they_do_not_belong_are_refused_before_anything_is_loaded(reading, stored):
    larger = replace(reading.task, video=replace(reading.task.video, height=32))
    with pytest.raises(Refusal, match=r"3 frames of 16x16x3, task\.video wants 3 frames of 32x16"):
        checked(replace(reading, task=larger))
    with pytest.raises(Refusal, match="leave vae out of trainable"):
        checked(replace(reading, trainable=replace(reading.trainable, patterns=("*",))))
    with pytest.raises(Refusal, match="held_out holds latents"):
        checked(replace(reading, held_out=reading.data))
    pixels = ShardedClips(
        directory=str(stored), split="train", windows=Windows(num_frames=1), height=16, width=16
    )
    with pytest.raises(Refusal, match="LatentClips reads them"):
        pixels.build()


def test_another_folder_or_task_is_refused(config, stored, tmp_path, capsys):
    with pytest.raises(Refusal, match="latents whose vae differ"):
        list(latents.encode(replace(config, seed=3), stored, per_shard=PER_SHARD))
    with pytest.raises(Refusal, match="latents whose per_shard differ"):
        list(latents.encode(config, stored, per_shard=5))
    (tmp_path / "mine").write_text("a thesis")
    with pytest.raises(Refusal, match="holds something else"):
        list(latents.encode(config, tmp_path, per_shard=PER_SHARD))
    for args, words in (
        (["--config", "configs/quickstart.py:smoke", "--output", str(tmp_path / "x")],
         "ImageToVideo does not work in latents"),
        (["--config", "configs/quickstart.py:smoke"], "--config and --output are needed"),
        (["--config", "a.py", "--output", "b", "--part", "2/2"], "no config file"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            command.run(latents.main, args)
        assert words in capsys.readouterr().err


def test_the_encoder_is_that_of_the_model_directory(config, stored, tmp_path):
    """Of a model on the disk, whatever decoder lies beside it."""
    mesh = config.mesh.build_on(jax.devices()[:1])
    vae, drawn = begin.autoencoder(config, mesh)
    held = Parts(ModelConfig(vae=vae))
    checkpoint.save_weights(tmp_path / "vae", configs.to_json(held), drawn)
    other = replace(config, seed=5, parts_from=(PartFrom("vae", str(tmp_path / "vae")),))
    _, loaded = begin.autoencoder(other, mesh)
    told = json.loads((Path(stored) / "manifest.json").read_text())["encoded"]["vae"]
    assert precomputed.name(loaded["vae"]) == told
    assert precomputed.name(begin.autoencoder(replace(config, seed=5), mesh)[1]["vae"]) != told
