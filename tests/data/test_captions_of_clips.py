"""Clips with several captions and numbers of their own: which samples have, and how often."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data.made import PROVENANCE, numbered

from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.buckets import Bucket, Buckets
from vdm_jax.data.captions import SVD_SHARES, Captioned, Share, shared
from vdm_jax.data.clips import Samples, digest
from vdm_jax.data.loader import Loader
from vdm_jax.data.shard import Manifest, ShardedClips, ShardFolder, Shards, Writer, verify
from vdm_jax.data.transform import RandomCrop, Windows

BY_ALL = {"sidecar": "s", "image": "i", "video": "v", "summary": "m"}
CLIPS = [BY_ALL, {"sidecar": "s", "video": "v", "summary": "m"}, {"sidecar": "s"}, {}]
MOTION = [12.0, 127.0, 191.0, 255.0]
LENGTH = 40


def write(folder: Path, clips=CLIPS, motion=MOTION) -> Path:
    writer = Writer(folder, "train")
    for n, captions in enumerate(clips):
        told = {"motion_bucket_id": motion[n]} if motion else None
        first = next(iter(captions.values()), "")
        frames = numbered(LENGTH, 16, 24)
        writer.add(f"c{n}", frames, 24, first, captions=captions, told=told)
    Manifest(provenance=PROVENANCE, splits={"train": writer.close()}).save(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("said"))


@pytest.fixture(scope="module")
def part(dataset) -> ShardedClips:
    windows = Windows(num_frames=1)
    return ShardedClips(
        directory=str(dataset), split="train", windows=windows, height=8, width=8,
        captions=SVD_SHARES,
    )  # fmt: skip


def far_off(counts: Counter, shares: dict[str, float]) -> float:
    """Chi-square over its degrees of freedom; 1 where the shares come out, as chance has it."""
    assert counts.keys() == shares.keys()
    total = counts.total()
    terms = [(counts[t] - s * total) ** 2 / (s * total) for t, s in shares.items()]
    return sum(terms) / (len(shares) - 1)


def drawn(source, index: int, count: int) -> Counter:
    rng = np.random.default_rng(7)
    return Counter(source.draw(index, rng)["caption"] for _ in range(count))


def test_shares_come_out_of_those_that_a_clip_has(part):
    source = part.build()
    first = [n * LENGTH for n in range(4)]
    assert far_off(drawn(source, first[0], 1000), {"i": 0.5, "v": 0.25, "m": 0.25}) < 4
    assert far_off(drawn(source, first[1], 1000), {"v": 0.5, "m": 0.5}) < 6
    assert drawn(source, first[2], 20) == {"s": 20} and drawn(source, first[3], 20) == {"": 20}


def test_the_same_words_of_two_writers_have_both_shares():
    captions = shared({"image": "a", "video": "b", "summary": "a"}, SVD_SHARES)
    assert captions == {"a": 0.75, "b": 0.25}
    info = Captioned(key="", caption="", fps=1.0, frames=1, height=1, width=1, captions=captions)
    places = {0.0: "a", 0.749: "a", 0.75: "b", 1 - 2**-53: "b"}
    assert {place: info.said(lambda p=place: p) for place in places} == places


def test_without_chance_a_sample_always_has_one_caption_and_all_together_the_shares(tmp_path, part):
    folder = write(tmp_path, [BY_ALL] * 25, [1.0] * 25)
    source = replace(part, directory=str(folder)).build()
    said = [source[i]["caption"] for i in range(len(source))]
    again = replace(part, directory=str(folder)).build()
    assert said == [again[i]["caption"] for i in range(len(source))]
    assert far_off(Counter(said), {"i": 0.5, "v": 0.25, "m": 0.25}) < 4
    assert len({*said[:LENGTH]}) == 3  # windows of one clip differ


def test_without_shares_the_first_caption_stands_and_nothing_more_is_drawn(dataset, part):
    windows = Windows(num_frames=2, every=3)
    asked = Samples(
        clips=ShardFolder(directory=str(dataset), split="train", captions=SVD_SHARES),
        windows=windows, height=8, width=8, rates=(1, 2, 3), crop=RandomCrop(),
    )  # fmt: skip
    plain = replace(asked, clips=replace(asked.clips, captions=()))
    one, other = plain.build(), asked.build()
    for seed in range(30):
        rng, same, apart = (np.random.default_rng(seed) for _ in range(3))
        a, b = one.draw(0, rng), other.draw(0, same)
        one.draw(len(one) - 1, apart)  # of the clip that has no captions
        assert a["caption"] == "s" and b["caption"] in {"i", "v", "m"}
        for name in ("video", "framing", "fps", "key"):
            np.testing.assert_array_equal(a[name], b[name])
        assert rng.bit_generator.state == apart.bit_generator.state
        assert rng.random() != same.random()


def test_over_epochs_a_clip_is_seen_with_all_and_a_resumed_run_sees_the_same(part):
    source = replace(part, windows=Windows(num_frames=1, step=LENGTH)).build()

    def captions(seed: int, skipped: int, batches: int) -> list[list[str]]:
        loader = Loader(source, batch_size=4, seed=seed)
        loader.restore(loader.state() | {"position": 4 * skipped})
        seen = []
        for batch in (next(loader) for _ in range(batches)):
            assert batch["motion_bucket_id"].dtype == np.float32
            assert sorted(batch["motion_bucket_id"]) == MOTION
            seen.append([c for _, c in sorted(zip(batch["key"], batch["caption"], strict=True))])
        loader.close()
        return seen

    whole = captions(0, 0, 24)
    assert whole == captions(0, 0, 24) != captions(1, 0, 24)
    assert whole[7:] == captions(0, 7, 17)
    assert [{*of_clip} for of_clip in zip(*whole, strict=True)] == [
        {"i", "v", "m"}, {"v", "m"}, {"s"}, {""},
    ]  # fmt: skip


def test_buckets_draw_them_too(dataset):
    clips = ShardFolder(directory=str(dataset), split="train", captions=SVD_SHARES)
    source = Buckets(clips=clips, buckets=(Bucket(1, 8, 8),)).build()
    assert {*drawn(source, 0, 40)} == {"i", "v", "m"}
    assert source[3 * LENGTH]["motion_bucket_id"] == 255


def test_identity(dataset, tmp_path):
    hashes = [shard.sha256 for shard in verify(dataset).splits["train"]]
    plain = {"format": 1, "shards": hashes}
    told = plain | {"told": [{"motion_bucket_id": m} for m in MOTION]}
    assert Shards(dataset, "train").fingerprint == digest(told)
    # the same pictures, whatever is said of them
    untold = write(tmp_path / "a", motion=None)
    assert Shards(untold, "train").fingerprint == digest(plain)
    other = write(tmp_path / "b", [{**c, "video": "w"} for c in CLIPS], motion=None)
    assert Shards(other, "train").fingerprint == digest(plain)
    half = Share(writer="video", share=0.5)
    prints = {
        Shards(folder, "train", shares).fingerprint
        for folder in (untold, other)
        for shares in ((), SVD_SHARES, SVD_SHARES[::-1], (*SVD_SHARES[:1], half))
    }
    assert len(prints) == 7


def test_shares_are_stored_and_tuned_as_any_part_of_a_config(part):
    assert configs.from_json(configs.to_json(part)) == part
    tuned = configs.override(part, ["--captions.1.share", "0.75"], prog="x")
    assert tuned.captions[1] == Share(writer="video", share=0.75)
    plain = replace(part, captions=())
    assert configs.from_json(configs.to_json(plain)) == plain


@pytest.mark.parametrize("share", [0.0, -0.5, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(Refusal, match=f"the share of 'image' must be above 0, got {share}"):
        Share(writer="image", share=share)


def test_writers_that_no_clip_has_are_refused(dataset, part, tmp_path):
    nobody = (*SVD_SHARES, Share(writer="nobody", share=1.0))
    there = "'nobody'; there are 'image', 'sidecar', 'summary', 'video'"
    with pytest.raises(Refusal, match=f"train: no clip has a caption by {there}"):
        replace(part, captions=nobody).build()
    with pytest.raises(Refusal, match="captions by 'video' have two shares"):
        replace(part, captions=(*SVD_SHARES, SVD_SHARES[1])).build()
    bare = write(tmp_path, [{}])
    with pytest.raises(Refusal, match="by 'image'; there are none with a name"):
        replace(part, directory=str(bare)).build()


def changed(dataset: Path, folder: Path, **fields) -> Path:
    """The dataset, with other fields of its second clip."""
    manifest = json.loads((dataset / "manifest.json").read_text())
    for shard in manifest["splits"]["train"]:
        shard["file"] = str(dataset / shard["file"])
        shard["clips"][1] |= fields
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"captions": ["a"]}, r"captions must be texts by who wrote them, got \['a'\]"),
        ({"captions": {"a": 3}}, "captions must be texts"),
        ({"captions": "a"}, "captions must be texts"),
        ({"captions": {"a": {"x": "y" * 999}}}, "captions must be texts .{0,110}$"),
        ({"told": [1.0]}, r"told must be finite numbers by their names, got \[1\.0\]"),
        ({"told": {"motion_bucket_id": float("nan")}}, "told must be finite numbers"),
        ({"told": {"motion_bucket_id": 1e39}}, "told must be finite numbers"),
        ({"told": {"motion_bucket_id": 10**400}}, "told must be finite numbers"),
        ({"told": {"motion_bucket_id": "7"}}, "told must be finite numbers"),
        ({"told": {"motion_bucket_id": True}}, "told must be finite numbers"),
        ({"told": {"video": 7.0}}, "told has 'video', which samples have of their own"),
        ({"what\nis": 7.0}, r"is damaged: .*what\\nis"),
        ({"told": {}}, r"'c0' has \['motion_bucket_id'\], 'c1' has \[\]"),
        ({"told": {"a\nb": 1}}, r"'c0' has \['motion_bucket_id'\], 'c1' has \['a\\nb'\]"),
    ],
)
def test_bad_manifests_are_refused(dataset, tmp_path, fields, words):
    with pytest.raises(Refusal, match=words) as refusal:
        Shards(changed(dataset, tmp_path, **fields), "train")
    assert "\n" not in str(refusal.value)


def test_a_manifest_too_deep_to_be_parsed_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 1, "splits": ' + "[" * 100_000)
    with pytest.raises(Refusal, match="cannot be read"):
        Shards(tmp_path, "train")


def test_shards_that_were_written_before_are_read(dataset, tmp_path):
    manifest = json.loads((dataset / "manifest.json").read_text())
    for shard in manifest["splits"]["train"]:
        shard["file"] = str(dataset / shard["file"])
        for clip in shard["clips"]:
            del clip["captions"], clip["told"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    infos = Shards(tmp_path, "train").infos
    assert [info.caption for info in infos] == ["s", "s", "s", ""]
    assert all(info.told == {} for info in infos)
