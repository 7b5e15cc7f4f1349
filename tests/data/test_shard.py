"""Shards give back the clips they were made of, by index, and say which record is damaged."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import Clips, Windowed
from vdm_jax.data.loader import Loader, Reading
from vdm_jax.data.record import pack, unpack
from vdm_jax.data.shard import Manifest, Provenance, Shards, Writer, verify
from vdm_jax.data.source import Source
from vdm_jax.data.transform import Windows

PROVENANCE = Provenance(title="Test", source="made here", licence="CC0", credit="nobody © 2026")
LENGTHS = {"train": [70, 5, 33, 32], "test": [16]}


def clip(seed: int, t: int, h: int = 48, w: int = 64) -> np.ndarray:
    """A bar moving over a smooth background; the frame number can be read off it."""
    y, x = np.mgrid[:h, :w]
    tint = np.random.default_rng(seed).uniform(60, 190, 3)
    base = tint + 40 * np.sin((x + y) / 13)[..., None]
    frames = np.repeat(base[None], t, axis=0)
    for i in range(t):
        frames[i, :, i % w] = 250
    return frames.clip(0, 255).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    splits = {}
    for split, lengths in LENGTHS.items():
        writer = Writer(tmp_path, split, shard_bytes=40_000)
        for number, length in enumerate(lengths):
            writer.add(f"{split}-{number}", clip(number, length), 24, caption=f"bar {number}")
        splits[split] = writer.close()
    Manifest(provenance=PROVENANCE, splits=splits).save(tmp_path)
    return tmp_path


def opened(path: Path, split: str, windows: Windows, size: tuple[int, int]) -> Windowed:
    return Windowed(Shards(path, split), windows, size)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2) + 1e-12))


@pytest.mark.parametrize(
    "windows",
    [
        Windows(num_frames=16),
        Windows(num_frames=4, every=3),
        Windows(num_frames=16, step=5),
        Windows(num_frames=2, every=33, step=9),  # skips a whole record in between
    ],
)
def test_every_window_of_every_clip(dataset: Path, windows: Windows):
    assert isinstance(Shards(dataset, "train"), Clips)
    source = opened(dataset, "train", windows, (48, 64))
    assert isinstance(source, Source)
    expected = [
        (number, window)
        for number, length in enumerate(LENGTHS["train"])
        for window in range(windows.count(length))
    ]
    assert len(source) == len(expected)
    for index, (number, window) in enumerate(expected):
        sample = source[index]
        wanted = list(windows.indices(window))
        truth = clip(number, LENGTHS["train"][number])[wanted]
        assert sample["video"].shape == truth.shape and sample["video"].dtype == np.uint8
        assert min(psnr(a, b) for a, b in zip(sample["video"], truth, strict=True)) > 38
        assert sample["key"] == f"train-{number}:{wanted[0]}"
        assert sample["caption"] == f"bar {number}"
        assert sample["fps"] == np.float32(24 / windows.every)
    with pytest.raises(IndexError):
        source[len(source)]


def test_samples_are_scaled(dataset: Path):
    sample = opened(dataset, "test", Windows(num_frames=8), (24, 24))[1]
    assert sample["video"].shape == (8, 24, 24, 3)


def test_several_shards_and_the_manifest(dataset: Path):
    manifest = verify(dataset)
    assert manifest.provenance == PROVENANCE
    assert len(manifest.splits["train"]) > 1
    clips = [c for shard in manifest.splits["train"] for c in shard.clips]
    assert [c.frames for c in clips] == LENGTHS["train"]
    raw = json.loads((dataset / "manifest.json").read_text())
    assert raw["format"] == 1 and raw["provenance"]["credit"] == "nobody © 2026"
    assert not list(dataset.rglob("*.part"))


def test_fingerprint_names_contents_and_settings(dataset: Path):
    def of(split: str = "train", frames: int = 4, size: int = 32) -> str:
        return opened(dataset, split, Windows(num_frames=frames), (size, size)).fingerprint

    assert of() == of()
    assert len({of(), of("test"), of(frames=5), of(size=16)}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_through_the_loader(dataset: Path, workers: int):
    """Threads and worker processes read the same samples as a plain loop over the order."""
    source = opened(dataset, "train", Windows(num_frames=8, step=4), (16, 16))
    loader = Loader(source, batch_size=6, seed=1, reading=Reading(threads=3, workers=workers))
    by_key = {source[i]["key"]: source[i]["video"] for i in range(len(source))}
    seen = []
    for _ in range(-(-len(source) // 6)):
        batch = next(loader)
        seen += batch["key"]
        for key, frames in zip(batch["key"], batch["video"], strict=True):
            np.testing.assert_array_equal(frames, by_key[key])
    loader.close()
    assert set(seen) == set(by_key)


def test_a_source_can_be_pickled(dataset: Path):
    source = opened(dataset, "test", Windows(num_frames=8), (16, 16))
    before = source[0]["video"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0]["video"], before)


def test_any_changed_byte_of_a_record_is_noticed():
    record = pack("a", 32, clip(0, 3))
    assert len(unpack(record, "a", 32, [0, 2])) == 2
    rng = np.random.default_rng(0)
    for at in [*range(16), *rng.integers(16, len(record), 200)]:
        changed = bytearray(record)
        changed[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError):
            unpack(bytes(changed), "a", 32, [0])
    for key, start in (("b", 32), ("a", 0)):
        with pytest.raises(ValueError, match="belongs to a at 32"):
            unpack(record, key, start, [0])


def test_any_changed_bit_of_a_shard_is_refused_or_changes_nothing(dataset: Path):
    path = dataset / "test" / "00000.array_record"
    whole, windows = path.read_bytes(), Windows(num_frames=16)
    expected = opened(dataset, "test", windows, (48, 64))[0]["video"]
    rng, refused = np.random.default_rng(1), 0
    for at in rng.integers(0, len(whole), 120):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        source = opened(dataset, "test", windows, (48, 64))
        try:
            np.testing.assert_array_equal(source[0]["video"], expected)
        except Refusal:
            refused += 1
    first, length = whole.index(b"VDMC"), len(pack("test-0", 0, clip(0, 16)))
    assert length <= len(whole) - first and refused >= 120 * 0.9 * length / len(whole)


def test_a_damaged_shard_is_refused_by_name(dataset: Path):
    path = dataset / "test" / "00000.array_record"
    data = bytearray(path.read_bytes())
    at = data.index(b"VDMC") + 500
    data[at : at + 50] = bytes(50)
    path.write_bytes(data)
    source = opened(dataset, "test", Windows(num_frames=16), (16, 16))
    with pytest.raises(Refusal, match=r"test/00000\.array_record: record 0 \(test-0\)") as refusal:
        source[0]
    assert "\n" not in str(refusal.value)
    with pytest.raises(Refusal, match="SHA-256"):
        verify(dataset)


def test_shards_swapped_or_short_are_refused(dataset: Path):
    windows = Windows(num_frames=4)
    path = dataset / "test" / "00000.array_record"
    os.truncate(path, path.stat().st_size - 7)
    with pytest.raises(Refusal, match="bytes instead of"):
        opened(dataset, "test", windows, (16, 16))
    path.unlink()
    with pytest.raises(Refusal, match="shard is missing"):
        opened(dataset, "test", windows, (16, 16))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no dataset here"),
        ("{", "cannot be read"),
        ('{"format": 2}', "shard format 2; this version reads 1"),
        ('{"format": 1, "provenance": {}, "splits": {}}', "is damaged"),
        ('{"format": 1}', "is damaged"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, text: str | None, words: str):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(Refusal, match=words) as refusal:
        opened(tmp_path, "train", Windows(num_frames=4), (16, 16))
    assert "\n" not in str(refusal.value)


def test_what_is_not_there_is_refused(dataset: Path):
    with pytest.raises(Refusal, match=r"no split 'valid', only \['test', 'train'\]"):
        opened(dataset, "valid", Windows(num_frames=4), (16, 16))
    with pytest.raises(Refusal, match="test: no clip has 17 frames"):
        opened(dataset, "test", Windows(num_frames=17), (16, 16))
