"""Windows, rates, sizes and crops of clips, whatever they are stored in."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from data.made import number_of, numbered, shards

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import Samples, Windowed
from vdm_jax.data.files import Listed, Videos
from vdm_jax.data.folder import Folder
from vdm_jax.data.joint import Joint
from vdm_jax.data.loader import Loader
from vdm_jax.data.shard import ShardedClips, ShardFolder, Shards
from vdm_jax.data.source import Draws, Keyed, Source
from vdm_jax.data.transform import RandomCrop, Windows, cover, framing


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return shards(tmp_path_factory.mktemp("clips"), [(40, 16, 24), (70, 16, 24)])


def part_of(dataset: Path, **more) -> Samples:
    clips = ShardFolder(directory=str(dataset), split="train")
    return Samples(
        **{"clips": clips, "windows": Windows(num_frames=4), "height": 8, "width": 8} | more
    )


def numbers(sample: dict) -> list[int]:
    return [number_of(frame) for frame in sample["video"]]


def test_a_drawn_rate_is_told_and_stays_within_its_window(dataset):
    windows = Windows(num_frames=4, every=5)
    source = part_of(dataset, windows=windows, rates=(1, 2, 5)).build()
    assert isinstance(source, Source) and isinstance(source, Draws) and isinstance(source, Keyed)
    rates, firsts = set(), set()
    for seed in range(60):
        sample = source.draw(3, np.random.default_rng(seed))
        seen = numbers(sample)
        (rate,) = set(np.diff(seen))
        assert sample["fps"] == np.float32(24 / rate)
        assert sample["key"] == f"c1:{seen[0]}"
        assert seen[0] >= 20 and seen[-1] <= 35
        rates.add(int(rate))
        firsts.add(seen[0])
    assert rates == {1, 2, 5} and len(firsts) > 8
    assert numbers(source[3]) == [20, 25, 30, 35] and source.key(3) == "c1:20"
    with pytest.raises(Refusal, match="got 6"):
        part_of(dataset, windows=windows, rates=(1, 6)).build()


def test_chance_comes_from_seed_and_position_alone(dataset):
    source = part_of(dataset, crop=RandomCrop(), width=4).build()

    def framings(seed: int, skipped: int = 0) -> list:
        loader = Loader(source, batch_size=4, seed=seed)
        state = loader.state() | {"position": 4 * skipped}
        loader.restore(state)
        return [next(loader)["framing"].tolist() for _ in range(4)]

    assert framings(0) == framings(0) != framings(1)
    assert framings(0)[2:] == framings(0, skipped=2)[:2]


def test_resampling_shows_the_frames_that_core_video_shows(tmp_path: Path):
    """One rule of time for storages that keep all frames and for containers."""
    frames = numbered(31, 16, 16)
    video.write(tmp_path / "a.mp4", frames, 24)
    kept = shards(tmp_path / "shards", [(31, 16, 16)])
    for fps in (8.0, 10.0, 24.0, 30.0):
        truth = [number_of(f) for f in video.read(tmp_path / "a.mp4", fps=fps).frames]
        source = Windowed(Shards(kept, "train"), Windows(num_frames=1), (16, 16), fps=fps)
        assert [numbers(source[i])[0] for i in range(len(source))] == truth
        assert source[0]["fps"] == np.float32(fps)
        several = Windowed(Shards(kept, "train"), Windows(num_frames=5), (16, 16), fps=fps)
        assert [n for i in range(len(several)) for n in numbers(several[i])] == (
            truth[: 5 * len(several)]
        )


def test_a_crop_keeps_what_it_did(dataset):
    """Height and width before, top and left of the scaled picture, height and width after."""
    picture = np.zeros((1, 40, 80, 3), np.uint8)
    picture[:, 10:20, 60:70] = 255
    for at, left in (((0.5, 0.5), 10.0), ((0.0, 0.0), 0.0), ((0.5, 1.0), 20.0)):
        part = cover(picture, (20, 20), at)[0, ..., 0]
        assert framing((40, 80), (20, 20), at).tolist() == [40, 80, 0, left, 20, 20]
        square = np.zeros((20, 40), np.uint8)
        square[5:10, 30:35] = 255
        expected = square[:, round(left) : round(left) + 20]
        assert np.abs(part.astype(int) - expected).mean() < 12
        assert (part.max() > 200) == (expected.max() > 200)
    source = part_of(dataset, crop=RandomCrop()).build()
    drawn = [source.draw(0, np.random.default_rng(n))["framing"] for n in range(40)]
    assert {tuple(f[[0, 1, 2, 4, 5]]) for f in drawn} == {(16.0, 24.0, 0.0, 8.0, 8.0)}
    lefts = [f[3] for f in drawn]
    assert min(lefts) < 1 and max(lefts) > 3 and max(lefts) <= 4
    assert source[0]["framing"].tolist() == [16, 24, 0, 2, 8, 8]


def test_pictures_beside_videos_are_drawn_too(dataset):
    videos = part_of(dataset, crop=RandomCrop()).build()
    stills = part_of(dataset, crop=RandomCrop(), windows=Windows(num_frames=1)).build()
    joint = Joint(videos, stills, 2)
    one, other = (joint.draw(0, np.random.default_rng(n)) for n in (1, 2))
    assert one["framing"][3] != other["framing"][3]
    assert joint[0]["framing"].tolist() == [16, 24, 0, 2, 8, 8]


def test_identity_is_that_of_clips_and_settings(dataset):
    part = part_of(dataset)
    others = [
        replace(part, crop=RandomCrop()),
        replace(part, rates=(1,)),
        replace(part, fps=12.0),
        replace(part, width=4),
        replace(part, windows=Windows(num_frames=3)),
    ]
    prints = [each.build().fingerprint for each in (part, *others)]
    assert len(set(prints)) == 6 and prints[0] == part.build().fingerprint
    assert part.build().credit == "nobody © 2026"


def test_a_video_is_upright_in_the_list_and_in_its_samples(tmp_path: Path):
    """A quarter turn in the file's metadata swaps height and width of both."""
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :, :16] = 255  # a bright left edge
    video.write(tmp_path / "plain.mp4", frames, 8)
    turned(tmp_path / "plain.mp4", tmp_path / "turned.mp4")
    listed = [Listed(name=f"{name}.mp4") for name in ("plain", "turned")]
    clips = Videos(tmp_path, listed)
    assert [(i.height, i.width) for i in clips.infos] == [(32, 64), (64, 32)]
    plain, rotated = (clips.read(i, range(0, 4, 3)) for i in (0, 1))
    assert plain.shape == (2, 32, 64, 3) and rotated.shape == (2, 64, 32, 3)
    upright = {k: np.abs(np.rot90(plain[0], k).astype(int) - rotated[0]).mean() for k in (1, 3)}
    assert min(upright.values()) < 3 < 50 < max(upright.values())
    source = Windowed(clips, Windows(num_frames=2), (16, 16))
    assert source[2]["framing"].tolist() == [64, 32, 8, 0, 16, 16]


def turned(path: Path, output: Path) -> None:
    """The same stream, to be shown turned by a quarter: the matrix of its track is exchanged."""
    data = bytearray(path.read_bytes())
    one, end = (65536).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    zero = bytes(4)
    matrix = one + zero + zero + zero + one + zero + zero + zero + end
    quarter = zero + one + zero + (-65536 & 0xFFFFFFFF).to_bytes(4, "big") + zero * 4 + end
    at = data.index(matrix, data.index(b"tkhd"))
    data[at : at + 36] = quarter
    output.write_bytes(data)
    with av.open(str(output)) as file:
        assert next(file.decode(video=0)).rotation in (-90, 90)


def test_a_file_that_became_shorter_is_refused_by_name(tmp_path: Path):
    video.write(tmp_path / "a.mp4", numbered(8, 16, 16), 8)
    clips = Folder(directory=str(tmp_path)).build()
    source = Windowed(clips, Windows(num_frames=4), (16, 16))
    video.write(tmp_path / "a.mp4", numbered(6, 16, 16), 8)
    with pytest.raises(Refusal, match=r"a\.mp4: ends before frame 7"):
        source[1]


def test_parts_that_open_samples_are_refused(dataset):
    samples = ShardedClips(
        directory=str(dataset), split="train", windows=Windows(num_frames=4), height=8, width=8
    )
    with pytest.raises(Refusal, match=r"ShardedClips opens samples; .* such as ShardFolder"):
        part_of(dataset, clips=samples).build()


def test_what_is_no_rate_or_size_is_refused(dataset):
    for fps in (0.0, -5.0, float("inf")):
        with pytest.raises(Refusal, match=f"^fps must be above 0, got {fps}$"):
            part_of(dataset, fps=fps)
    for size in ({"height": 0}, {"width": -8}):
        ((name, value),) = size.items()
        said = f"^{name} must be at least 1, got {value}$"
        with pytest.raises(Refusal, match=said):
            part_of(dataset, **size)
        with pytest.raises(Refusal, match=said):
            ShardedClips(
                **{"directory": "d", "split": "train", "windows": Windows(num_frames=4)}
                | {"height": 8, "width": 8}
                | size
            )
