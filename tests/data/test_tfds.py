"""Prepared TFDS folders: against what tensorflow-datasets wrote, every storage of clips, damage."""

import base64
import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from pyarrow import parquet

from vdm_jax.core import video
from vdm_jax.core.container import Limits
from vdm_jax.core.refusal import Refusal
from vdm_jax.data import index, tfrecord
from vdm_jax.data.clips import Clips
from vdm_jax.data.example import Example, message
from vdm_jax.data.files import SkipBad
from vdm_jax.data.tfds import Prepared, PreparedFolder

# A shard that tensorflow-datasets 4.9.10 wrote with TensorFlow 2.21: two records of
# {"video": Video((None, 4, 6, 3)), "about": {"caption": Text, "label": ClassLabel}}.
WRITTEN_BY_TFDS = """
eNp7yQABpsZfOrmeMXLJcfEmJuWXlugnJxaUZObnCfFycXNxuhcd3nZ4fqqCAddaRi7WssyU1HyhxYxcCxi5/DoD/Nx5
uaS4gGbwenq4BAFpNiBm4WACkkppN0WAlKini2MIx8zklA0rE9xZdZSUlFI4GRm6lZilLizxyQZZ7+nq57LOKaGJNPOu
eEQe6OOKcHFxOSHExLD2EvOkWad5fqKYJ8LFDfFPTmJSao4QqxQzFyPDtvQJ7baMEI+nVTZu49rFRMDjhlyNTDCPf2fk
+kKqx0vXpCI83l/BrHm73cCRAo+fjTmF8PgmDeaFx9yiXVDMCyLGPEmoeTxzK6bJim7o6OgQEBFq5FZUYbgWx2Is7LuR
cGAyCjXGnwIAjYeKBg==
"""
HEIGHT, WIDTH = 12, 16
CLASS = "tensorflow_datasets.core.features"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vdm_jax" / "index"


def golden_clip(number: int) -> np.ndarray:
    t, h, w, c = np.indices((2 + number, 4, 6, 3))
    return (t * 40 + h * 20 + w * 7 + c * 60 + number * 5).astype(np.uint8)


def clip(number: int, colours: int = 3) -> np.ndarray:
    shape = (number % 3 + 2, HEIGHT, WIDTH, colours)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def png(frame: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def example(values: Mapping[str, list]) -> bytes:
    made = message()()
    for name, many in values.items():
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(many[0])]
        getattr(made.features.feature[name], kind).value.extend(many)
    return made.SerializeToString()


def of(kind: str, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """A feature as features.json has it."""
    told = dict(more)
    if shape is not None:
        told["shape"] = {"dimensions": [str(size) for size in shape]}
    return {"pythonClassName": f"{CLASS}.x.{kind[:1].upper() + kind[1:]}", kind: told}


def several(feature: dict[str, Any]) -> dict[str, Any]:
    return of("sequence", feature=feature, length="-1")


def fields(**inner: dict[str, Any]) -> dict[str, Any]:
    return of("featuresDict", features=inner)


KINDS = fields(
    video=of("video", [-1, HEIGHT, WIDTH, 3], dtype="uint8", encodingFormat="png"),
    gray=several(of("image", [-1, -1, 1], dtype="uint8")),
    image=of("image", [-1, -1, 3], dtype="uint8"),
    steps=several(fields(observation=fields(image=of("image", [-1, -1, 3], dtype="uint8")))),
    file=of("tensor", [], dtype="string", encoding="none"),
    pixels=of("tensor", [-1, HEIGHT, WIDTH, 3], dtype="uint8", encoding="none"),
    packed=of("tensor", [-1, HEIGHT, WIDTH, 1], dtype="uint8", encoding="bytes"),
    zipped=of("tensor", [-1, -1, -1, 3], dtype="uint8", encoding="zlib"),
    stacked=several(of("tensor", [HEIGHT, WIDTH, 3], dtype="uint8", encoding="zlib")),
    several=several(of("video", [-1, HEIGHT, WIDTH, 3], dtype="uint8")),
    depth=of("image", [-1, -1, 1], dtype="float32"),
    own={"pythonClassName": "my.module.Feature", "jsonFeature": {"json": "{}"}},
    words=several(of("text")),
    box=of("boundingBox", [4], dtype="float32"),
    about=fields(
        caption=of("text"),
        label=of("classLabel", numClasses="3"),
        rate=of("tensor", [], dtype="float32", encoding="none"),
        views=of("tensor", [], dtype="int64", encoding="none"),
    ),
)


def record(number: int) -> dict[str, list]:
    frames = clip(number)
    gray = np.ascontiguousarray(frames[..., :1])
    return {
        "video": [png(frame) for frame in frames],
        "gray": [png(frame[..., 0]) for frame in frames],
        "image": [png(frames[1])],
        "steps/observation/image": [png(frame) for frame in frames[::-1]],
        "file": [video.encode(np.repeat(frames[:1], 4, axis=0), 12, video.H264(threads=1))],
        "pixels": frames.ravel().tolist(),
        "packed": [gray.tobytes()],
        "zipped/shape": list(frames.shape),
        "zipped/value": [zlib.compress(frames.tobytes())],
        "stacked": [zlib.compress(frame.tobytes()) for frame in frames],
        "words": [f" first of {number}".encode(), b"second"],
        "about/caption": [f"Größe {number}".encode()],
        "about/label": [number % 3],
        "about/rate": [7.5 + number],
        "about/views": [number * 10],
    }


def write_tfrecord(path: Path, records: list[bytes]) -> None:
    path.write_bytes(b"".join(map(tfrecord.frame, records)))


def write_array_record(path: Path, records: list[bytes]) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for one in records:
        writer.write(one)
    writer.close()


def write_parquet(path: Path, records: list[bytes]) -> None:
    schema = pa.schema([pa.field("data", pa.binary())])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(records), 2):
            rows = [{"data": one} for one in records[start : start + 2]]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))


WRITERS: dict[str, Callable[[Path, list[bytes]], None]] = {
    "tfrecord": write_tfrecord,
    "array_record": write_array_record,
    "parquet": write_parquet,
}
LENGTHS = (3, 0, 2)


def prepared(root: Path, file_format: str = "tfrecord") -> Path:
    """Five records in shards of 3, 0 and 2."""
    root.mkdir(parents=True)
    split = {"name": "train", "shardLengths": [str(n) for n in LENGTHS], "numBytes": "1"}
    info = {"name": "toy", "version": "1.2.0", "fileFormat": file_format, "splits": [split]}
    (root / "dataset_info.json").write_text(json.dumps(info))
    (root / "features.json").write_text(json.dumps(KINDS))
    (root / "about-label.labels.txt").write_text("ApplyEyeMakeup\nrope_climbing\nTaiChi\n")
    for shard, length in enumerate(LENGTHS):
        first = sum(LENGTHS[:shard])
        records = [example(record(n)) for n in range(first, first + length)]
        if length:
            WRITERS[file_format](shard_of(root, shard, file_format), records)
    return root


def shard_of(root: Path, shard: int, file_format: str = "tfrecord") -> Path:
    return root / f"toy-train.{file_format}-{shard:05d}-of-00003"


def edit(path: Path, change: Callable[[dict], Any]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def test_what_tfds_wrote_is_read(tmp_path: Path):
    feature = {"dtype": "uint8", "encodingFormat": "png"}
    known = fields(
        video=of("video", [-1, 4, 6, 3], **feature),
        about=fields(caption=of("text"), label=of("classLabel", numClasses="2")),
    )
    info = {
        "name": "golden",
        "version": "1.0.0",
        "citation": "A.\n  Author",
        "redistributionInfo": {"license": "CC0"},
        "splits": [{"name": "train", "shardLengths": ["2"]}],
    }
    (tmp_path / "features.json").write_text(json.dumps(known))
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "about-label.labels.txt").write_text("HandStand\nrope_climbing\n")
    shard = zlib.decompress(base64.b64decode(WRITTEN_BY_TFDS))
    (tmp_path / "golden-train.tfrecord-00000-of-00001").write_bytes(shard)
    clips = Prepared(tmp_path, "train", caption="about/caption", fps=5, told=("about/label",))
    assert isinstance(clips, Clips)
    assert clips.credit == "golden 1.0.0; CC0; A. Author"
    seen = {}
    for number, told in enumerate(clips.infos):
        seen[told.caption] = clips.read(number, range(told.frames))
        assert (told.height, told.width, told.fps) == (4, 6, 5.0)
        assert told.key == f"train/{number:06d}"
        assert told.caption == f"Größe {told.told['about/label']:.0f}"
    for number in range(2):
        np.testing.assert_array_equal(seen[f"Größe {number}"], golden_clip(number))
    labels = Prepared(tmp_path, "train", caption="about/label", fps=5)
    assert sorted(told.caption for told in labels.infos) == ["Hand Stand", "rope climbing"]


@pytest.mark.parametrize("file_format", WRITERS)
def test_formats_and_storages(tmp_path: Path, file_format: str):
    root = prepared(tmp_path / "toy", file_format)
    exact = ("video", "pixels", "zipped", "stacked")
    names = (*exact, "gray", "packed", "image", "steps/observation/image")
    for name in names if file_format == "tfrecord" else ("video",):
        clips = Prepared(root, "train", video=name, fps=10)
        for number, told in enumerate(clips.infos):
            truth = clip(number)
            truth = truth[..., :1].repeat(3, axis=-1) if name in ("gray", "packed") else truth
            truth = truth[1:2] if name == "image" else truth
            truth = truth[::-1] if name.startswith("steps") else truth
            assert (told.frames, told.height, told.width) == truth.shape[:3]
            np.testing.assert_array_equal(clips.read(number, range(told.frames)), truth)
            some = range(0, told.frames, 2)
            np.testing.assert_array_equal(clips.read(number, some), truth[::2])
        assert len(clips.infos) == sum(LENGTHS)


def test_a_video_file_in_a_record_has_its_own_rate(tmp_path: Path):
    clips = Prepared(prepared(tmp_path / "toy"), "train", video="file")
    assert {(told.frames, told.fps) for told in clips.infos} == {(4, 12.0)}
    truth = record(3)["file"][0]
    np.testing.assert_array_equal(clips.read(3, range(1, 3)), video.decode(truth).frames[1:3])


def test_captions_rates_and_numbers(tmp_path: Path):
    root = prepared(tmp_path / "toy")
    clips = Prepared(root, "train", caption="about/label", fps="about/rate", told=["about/views"])
    words = ["Apply Eye Makeup", "rope climbing", "Tai Chi"]
    for number, told in enumerate(clips.infos):
        assert told.caption == words[number % 3]
        assert told.fps == 7.5 + number
        assert told.told == {"about/views": number * 10.0}
    first = Prepared(root, "train", caption="words", fps=3)
    assert [told.caption for told in first.infos[:2]] == ["first of 0", "first of 1"]
    (single,) = {told.fps for told in Prepared(root, "train", video="image").infos}
    assert single == 1.0
    config = PreparedFolder(directory=str(root), split="train", fps=3.0, caption="words")
    assert config.build().infos == first.infos


def test_a_folder_of_before_tfds_4_5(tmp_path: Path):
    root = prepared(tmp_path / "toy")

    def old(kind: str, **content: Any) -> dict[str, Any]:
        return {"type": f"{CLASS}.x.{kind}", "content": content}

    image = old("Image", shape=[None, None, 3], dtype="uint8", encoding_format="png")
    layout = old(
        "FeaturesDict",
        video=old("Video", shape=[None, HEIGHT, WIDTH, 3], encoding_format="png"),
        steps=old(
            "Sequence",
            feature=old("FeaturesDict", observation=old("FeaturesDict", image=image)),
            length=None,
        ),
        about=old("FeaturesDict", label=old("ClassLabel", num_classes=3)),
    )
    new = [Prepared(root, "train", video=v, fps=2) for v in ("video", "steps/observation/image")]
    (root / "features.json").write_text(json.dumps(layout))
    edit(root / "dataset_info.json", lambda info: info.pop("fileFormat"))
    for video_feature, expected in zip(("video", "steps/observation/image"), new, strict=True):
        found = Prepared(root, "train", video=video_feature, fps=2, caption="about/label")
        assert found.infos[0].caption == "Apply Eye Makeup"
        np.testing.assert_array_equal(found.read(4, range(3)), expected.read(4, range(3)))


def test_fingerprint_is_of_the_clips_not_of_where_they_lie(tmp_path: Path):
    root = prepared(tmp_path / "toy")
    here = Prepared(root, "train", fps=4)
    there = Prepared(prepared(tmp_path / "b" / "toy", "array_record"), "train", fps=4)
    others = [Prepared(root, "train", fps=5), Prepared(root, "train", fps=4, caption="words")]
    others.append(Prepared(root, "train", fps=4, video="steps/observation/image"))
    assert here.fingerprint == there.fingerprint
    assert len({here.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_the_index_is_made_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    root = prepared(tmp_path / "toy")
    made = Prepared(root, "train", fps=4)
    (kept,) = cache.iterdir()
    monkeypatch.setattr(index, "each", None)  # a second pass would fall over this
    again = Prepared(root, "train", fps=4)
    assert again.infos == made.infos and again.fingerprint == made.fingerprint
    np.testing.assert_array_equal(again.read(4, range(3)), clip(4))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))
    for damage in ("{", "[]", kept.read_text()[:-9]):
        kept.write_text(damage)
        assert Prepared(root, "train", fps=4).infos == made.infos
        assert json.loads(kept.read_text())["name"] == kept.stem
    later = shard_of(root, 0).stat().st_mtime_ns + 10**9
    os.utime(shard_of(root, 0), ns=(later, later))
    assert Prepared(root, "train", fps=4).infos == made.infos
    assert len(list(cache.iterdir())) == 2
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert Prepared(root, "train", fps=4, cache=blocked).infos == made.infos


@pytest.mark.parametrize("file_format", WRITERS)
def test_a_storage_can_be_pickled(tmp_path: Path, file_format: str):
    clips = Prepared(prepared(tmp_path / "toy", file_format), "train", fps=4)
    clips.read(0, range(1))
    copy = pickle.loads(pickle.dumps(clips))
    np.testing.assert_array_equal(copy.read(3, range(2)), clip(3))


def test_a_damaged_record_is_named_or_skipped(tmp_path: Path):
    root = prepared(tmp_path / "toy")
    shard = shard_of(root, 0)
    data = bytearray(shard.read_bytes())
    second = tfrecord.offsets(shard)[1]
    data[second + 500] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(Refusal, match=r"1 of 5 unreadable: .*00000-of-00003: record 1: fails its"):
        Prepared(root, "train", fps=4)
    for _ in range(2):  # the second time from the index
        clips = Prepared(root, "train", fps=4, bad_files=SkipBad())
        assert [told.key[-1] for told in clips.infos] == ["0", "2", "3", "4"]
        np.testing.assert_array_equal(clips.read(1, range(2)), clip(2)[:2])


def break_header(root: Path) -> None:
    data = bytearray(shard_of(root, 2).read_bytes())
    data[3] ^= 1
    shard_of(root, 2).write_bytes(bytes(data))


def replace_record(root: Path, **values: list) -> None:
    records = [example(record(n) | values) for n in range(3, 5)]
    write_tfrecord(shard_of(root, 2), records)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def no_format(root: Path) -> None:
    edit(root / "dataset_info.json", lambda info: info.update(fileFormat="riegeli"))


def lead_out(root: Path, template: str) -> None:
    edit(
        root / "dataset_info.json",
        lambda info: info["splits"][0].update(filepathTemplate=template),
    )


DEEP = '{"sequence":{"feature":' * 99 + "{}" + "}}" * 99

DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "length": (break_header, r"00002-of-00003: record 0 is damaged: its length is wrong"),
    "cut": (lambda root: shorten(shard_of(root, 2)), r"is cut short: \d+ of \d+ bytes"),
    "missing": (lambda root: shard_of(root, 2).unlink(), "00002-of-00003: shard is missing"),
    "count": (
        lambda root: write_tfrecord(shard_of(root, 2), [example(record(3))]),
        "holds 1 records instead of 2",
    ),
    "no example": (
        lambda root: write_tfrecord(shard_of(root, 2), [b"\xff" * 9] * 2),
        "record 0: is no tf.train.Example",
    ),
    "empty": (lambda root: replace_record(root, video=[1]), "video is empty or holds no bytes"),
    "picture": (
        lambda root: replace_record(root, video=[b"GIF89a" + bytes(40)]),
        "is not a PNG or JPEG or WEBP picture",
    ),
    "riegeli": (no_format, "its shards are riegeli.*convert_format"),
    "escape": (lambda root: lead_out(root, "../{SPLIT}"), "cannot be used: its shards are named"),
    "absolute": (lambda root: lead_out(root, "/etc/{SPLIT}"), "its shards are named '/etc"),
    "format": (lambda root: lead_out(root, "{SPLIT.__class__}"), "its shards are named"),
    "features": (lambda root: (root / "features.json").write_text("{"), "features.json: is damag"),
    "deep": (
        lambda root: (root / "features.json").write_text(DEEP),
        "features.json: is damaged: features lie too deep",
    ),
    "no features": (lambda root: (root / "features.json").unlink(), "features.json: cannot be r"),
    "info": (lambda root: (root / "dataset_info.json").write_text("[1]"), "info.json: is damaged"),
    "other": (lambda root: (root / "dataset_info.json").unlink(), "is no prepared TFDS folder"),
    "old": (
        lambda root: edit(
            root / "dataset_info.json", lambda info: info["splits"][0].pop("shardLengths")
        ),
        "'train' has no shardLengths",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused(tmp_path: Path, damage: str):
    root = prepared(tmp_path / "toy")
    harm, words = DAMAGE[damage]
    harm(root)
    with pytest.raises(Refusal, match=words) as caught:
        Prepared(root, "train", fps=4)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"split": "train[:10%]"}, r"has no split 'train\[:10%\]', only \['train'\]; slices are n"),
        ({"split": "test"}, r"has no split 'test', only \['train'\]$"),
        ({"video": "vid"}, "has no feature 'vid', only about/caption, about/label"),
        ({"video": "several"}, r"'several' \(video uint8 in 1 sequences\) holds no clip"),
        ({"video": "box"}, "holds no clip"),
        ({"video": "own"}, r"'own' \(Feature\) holds no clip"),
        ({"video": "depth"}, "holds no clip"),
        ({"video": "about/label"}, "holds no clip"),
        ({"caption": "box"}, "'box' is neither a text nor a ClassLabel"),
        ({"told": ("about/caption",)}, "'about/caption' is no single number"),
        ({"fps": "words"}, "'words' is no single number"),
        ({"fps": None}, "the pictures of 'video' do not tell their rate; give fps"),
        ({"fps": 0}, "fps must be above 0 and at most 240, got 0"),
        ({"limits": Limits(fps=2)}, "fps must be above 0 and at most 2, got 4"),
        ({"limits": Limits(pixels=100)}, "is over the limit of 100 pixels"),
    ],
)
def test_what_cannot_be_had_is_refused(tmp_path: Path, asked: dict[str, Any], words: str):
    root = prepared(tmp_path / "toy")
    with pytest.raises(Refusal, match=words):
        Prepared(root, **({"split": "train", "fps": 4} | asked))


def test_where_to_look_instead(tmp_path: Path):
    root = prepared(tmp_path / "toy" / "config" / "1.2.0")
    with pytest.raises(Refusal, match=rf"dataset_info.json is missing\); there are {root}$"):
        Prepared(tmp_path / "toy", "train")
    (root / "about-label.labels.txt").unlink()
    with pytest.raises(Refusal, match=r"about-label\.labels\.txt: no such file"):
        Prepared(root, "train", fps=4, caption="about/label")


def test_labels_that_are_not_known(tmp_path: Path):
    root = prepared(tmp_path / "toy")
    replace_record(root, **{"about/label": [-1]})
    assert Prepared(root, "train", fps=4, caption="about/label").infos[4].caption == ""
    replace_record(root, **{"about/label": [3]})
    with pytest.raises(Refusal, match="about/label is 3, of 3 names"):
        Prepared(root, "train", fps=4, caption="about/label")


def test_the_format_that_is_there(tmp_path: Path):
    """tfds convert_format leaves several formats side by side, of which some may be deleted."""
    root = prepared(tmp_path / "toy", "array_record")
    edit(
        root / "dataset_info.json",
        lambda info: info.update(fileFormat="riegeli", alternativeFileFormats=["array_record"]),
    )
    assert len(Prepared(root, "train", fps=4).infos) == 5


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_other_files_that_are_damaged(tmp_path: Path, file_format: str):
    root = prepared(tmp_path / "toy", file_format)
    path = shard_of(root, 2, file_format)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Refusal, match=r"00002-of-00003: (cannot be read|holds 0 records)"):
        Prepared(root, "train", fps=4)


def test_hostile_sizes(tmp_path: Path):
    """Zeros that inflate to much, a picture that claims much, a clip that changes its size."""
    root = prepared(tmp_path / "toy")
    bomb = zlib.compress(bytes(50_000_000))
    replace_record(root, **{"zipped/value": [bomb], "zipped/shape": [50, 1000, 1000, 3]})
    with pytest.raises(Refusal, match="inflates to more than 1 MB"):
        Prepared(root, "train", video="zipped", fps=4, limits=Limits(bytes=10**6))
    replace_record(root, **{"zipped/shape": [-1, 4, 4, 3]})
    with pytest.raises(Refusal, match="are no clip of shape"):
        Prepared(root, "train", video="zipped", fps=4)
    replace_record(root, pixels=[-1] * HEIGHT * WIDTH * 3)
    with pytest.raises(Refusal, match="pixels holds numbers outside 0 … 255"):
        Prepared(root, "train", video="pixels", fps=4)
    small = png(np.zeros((4, 4, 3), np.uint8))
    replace_record(root, video=[png(clip(0)[0]), small])
    clips = Prepared(root, "train", fps=4)
    with pytest.raises(Refusal, match="record 1: picture 1 of 2 differs in size"):
        clips.read(4, range(2))
    replace_record(root, video=[small] * 3)
    clips = Prepared(root, "train", fps=4, limits=Limits(frames=2))
    with pytest.raises(Refusal, match="record 1: 3 frames of 4x4 are more than may be read"):
        clips.read(4, range(3))
    assert clips.read(4, range(2)).shape == (2, 4, 4, 3)


def test_damage_after_opening_is_refused_when_read(tmp_path: Path):
    root = prepared(tmp_path / "toy")
    clips = Prepared(root, "train", fps=4)
    shutil.copy(shard_of(root, 0), shard_of(root, 2))  # of another length, other records
    with pytest.raises(Refusal, match="00002-of-00003: record 1"):
        clips.read(4, range(1))


def test_an_example_is_a_mapping():
    made = Example(example({"a": [b"x", b"y"], "b": [2**40, -1], "c": [0.5]}))
    assert sorted(made) == ["a", "b", "c"] and len(made) == 3
    assert list(made["a"]) == [b"x", b"y"]
    assert made["b"].tolist() == [2**40, -1] and made["c"].dtype == np.float32
    with pytest.raises(KeyError):
        made["d"]
    assert "d" not in made and len(made) == 3
