"""Which bucket a clip goes to, and that no batch mixes two."""

from dataclasses import replace
from pathlib import Path

import pytest
from data.made import number_of, shards

from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.buckets import Bucket, Buckets, best
from vdm_jax.data.clips import ClipInfo
from vdm_jax.data.loader import Loader
from vdm_jax.data.shard import ShardedClips, ShardFolder
from vdm_jax.data.source import InGroups, Source
from vdm_jax.data.transform import Windows
from vdm_jax.train.loop import open_sources

WIDE, WIDE_LONG, LARGE = Bucket(8, 90, 160), Bucket(32, 90, 160), Bucket(8, 360, 640)
TALL, SQUARE, STILL = Bucket(8, 160, 90), Bucket(8, 120, 120), Bucket(1, 360, 640)
ALL = (WIDE, WIDE_LONG, LARGE, TALL, SQUARE, STILL)


@pytest.mark.parametrize(
    ("frames", "height", "width", "bucket"),
    [
        (40, 720, 1280, LARGE),  # resolution before frames
        (40, 300, 530, WIDE_LONG),  # too small for LARGE: as many frames as it has
        (20, 300, 530, WIDE),
        (20, 45, 80, WIDE),  # smaller than all: the one that it is scaled up least for
        (20, 1280, 720, TALL),
        (20, 500, 500, SQUARE),
        (20, 480, 640, LARGE),  # 4:3 loses a quarter in a square too: resolution decides
        (5, 1280, 720, STILL),  # too short for its shape
        (20, 360, 636, WIDE),  # 4 pixels too narrow for LARGE
    ],
)
def test_a_clip_goes_where_most_of_it_is_shown(frames, height, width, bucket):
    info = ClipInfo(key="a", caption="", fps=8.0, frames=frames, height=height, width=width)
    windows = [Windows(num_frames=b.num_frames) for b in ALL]
    assert ALL[best(info, ALL, windows, None)] == bucket


def test_sizes_that_are_nearly_of_one_shape_count_as_of_one():
    """Sizes are multiples of something: 16:9 is 64x114 here and 320x576 there."""
    info = ClipInfo(key="a", caption="", fps=8.0, frames=9, height=720, width=1280)
    buckets = (Bucket(8, 64, 114), Bucket(8, 320, 576), Bucket(8, 640, 1024))
    assert best(info, buckets, [Windows(num_frames=8)] * 3, None) == 1


def test_rates_count_in_how_long_a_clip_is():
    info = ClipInfo(key="a", caption="", fps=24.0, frames=40, height=90, width=160)
    buckets = (Bucket(4, 90, 160), Bucket(16, 90, 160))
    at = lambda fps, every: best(  # noqa: E731
        info, buckets, [Windows(num_frames=b.num_frames, every=every) for b in buckets], fps
    )
    assert (at(None, 1), at(8.0, 1), at(None, 3), at(8.0, 5)) == (1, 0, 0, None)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    sizes = [(9, 16, 32), (13, 24, 24), (3, 32, 16), (20, 16, 32), (12, 24, 24), (1, 24, 24)]
    return shards(tmp_path_factory.mktemp("mixed"), sizes)


def part_of(folder: Path, *buckets: Bucket, **more) -> Buckets:
    clips = ShardFolder(directory=str(folder), split="train")
    return Buckets(clips=clips, buckets=buckets, **more)


def test_samples_are_windows_of_the_clips_of_each_bucket(mixed):
    part = part_of(mixed, Bucket(4, 8, 16), Bucket(16, 8, 16), Bucket(4, 8, 8), Bucket(2, 99, 9))
    source = part.build()
    assert isinstance(source, Source) and isinstance(source, InGroups)
    assert source.buckets == list(part.buckets) and source.groups == [2, 1, 6, 1]
    samples = [source[i] for i in range(len(source))]
    assert [s["key"] for s in samples] == [source.key(i) for i in range(10)] == [
        "c0:0", "c0:4", "c3:0", "c1:0", "c1:4", "c1:8", "c4:0", "c4:4", "c4:8", "c2:0",
    ]  # fmt: skip
    shapes = [s["video"].shape[:3] for s in samples]
    assert shapes == [(4, 8, 16)] * 2 + [(16, 8, 16)] + [(4, 8, 8)] * 6 + [(2, 99, 9)]
    assert [number_of(f) for f in samples[7]["video"]] == [4, 5, 6, 7]
    with pytest.raises(IndexError):
        source[10]


def test_batches_never_mix_shapes(mixed):
    part = part_of(mixed, Bucket(2, 8, 16), Bucket(2, 8, 8), Bucket(1, 16, 8))
    source = part.build()
    assert source.groups == [14, 12, 4]
    loader = Loader(source, batch_size=3, seed=5)
    shapes = [next(loader)["video"].shape for _ in range(9 * 3)]
    expected = {(3, 2, 8, 16, 3): 12, (3, 2, 8, 8, 3): 12, (3, 1, 16, 8, 3): 3}
    assert {shape: shapes.count(shape) for shape in shapes} == expected
    assert shapes[:9] != sorted(shapes[:9])


def test_a_bucket_that_nothing_fits_is_left_out_and_none_at_all_refused(mixed):
    assert part_of(mixed, Bucket(4, 8, 16), Bucket(99, 8, 16)).build().groups == [2 + 5 + 3 + 3]
    with pytest.raises(Refusal, match="no clip fits a bucket; the shortest takes 99 frames"):
        part_of(mixed, Bucket(99, 8, 16)).build()
    with pytest.raises(Refusal, match="at least 1"):
        Bucket(0, 8, 8)


def test_a_run_takes_no_buckets_as_yet(mixed):
    part = part_of(mixed, Bucket(2, 8, 16), Bucket(2, 8, 8))
    config = replace(configs.load("configs/quickstart.py:smoke"), data=part, judge=None)
    with pytest.raises(Refusal, match="in buckets of 2 shapes"):
        open_sources(config, config.mesh.build())


def test_a_bucket_below_a_batch_is_named_once(mixed, caplog):
    source = part_of(mixed, Bucket(2, 8, 16), Bucket(2, 8, 8), Bucket(1, 16, 8)).build()
    Loader(source, batch_size=4, seed=0)  # remainders take turns
    assert not caplog.records
    loader = Loader(source, batch_size=13, seed=0)
    for _ in range(3):
        next(loader)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "16 of 30 samples are never trained on: buckets that hold 12, 4 fill no batch of 13"
    )


def test_parts_that_open_samples_are_refused(mixed):
    shards = ShardedClips(
        directory=str(mixed), split="train", windows=Windows(num_frames=1), height=8, width=8
    )
    with pytest.raises(Refusal, match=r"ShardedClips opens samples; .* such as ShardFolder"):
        Buckets(clips=shards, buckets=(STILL,)).build()
    with pytest.raises(Refusal, match=r"fps must be above 0, got -1\.0"):
        part_of(mixed, STILL, fps=-1.0)
