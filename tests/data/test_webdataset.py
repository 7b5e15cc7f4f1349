"""WebDataset shards: its conventions, a round trip, random access, and tar files that lie."""

import json
import logging
import pickle
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vdm_jax.core import video
from vdm_jax.core.container import Limits
from vdm_jax.core.refusal import Refusal
from vdm_jax.data import index, tar
from vdm_jax.data.clips import ClipInfo, Clips, digest
from vdm_jax.data.files import SkipBad
from vdm_jax.data.webdataset import Tars, TarShards, Writer, export

BLOCK = tarfile.BLOCKSIZE


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vdm_jax" / "index"


def clip(number: int, length: int = 9) -> np.ndarray:
    """Smooth, so that H.264 keeps it, and of another colour in every frame."""
    t, h, w = np.indices((length, 32, 48))
    channels = [w * 3 + t * 8, h * 5 + number * 20, (t * 16 + number * 40) % 200]
    return np.stack(channels, axis=-1).astype(np.uint8)


def mp4(number: int, length: int = 9, fps: int = 24) -> bytes:
    return video.encode(clip(number, length), fps, video.H264(threads=1, keyframe_interval=4))


def png(value: int, size: tuple[int, int] = (6, 8)) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2) + 1e-12))


def write_tar(path: Path, files: Mapping[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return path


def test_the_samples_of_a_tar_file(tmp_path: Path):
    """Names as webdataset groups them: up to the first dot of the last part, suffix in any case."""
    notes = {"caption": " of json ", "score": 3, "fps": 6.5, "lang": "de", "words": "chosen"}
    files = {
        "__index__.json": b"{}",
        "README": b"no suffix",
        "./a/first.MP4": mp4(0, 5, fps=12),
        "./a/first.txt": " größer ".encode(),
        "./a/first.json": json.dumps(notes).encode(),
        "v1.0/second.mkv": mp4(1),  # by its name; what it is, is seen
        "v1.0/second.jpg": b"a thumbnail, of no interest",
        "v1.0/second.json": json.dumps(notes).encode(),
        "third.cls": b"7",
        "pics.0010.png": png(10),
        "pics.0002.png": png(2),
        "pics.frame_0007.png": png(7),
        "pics.json": json.dumps(notes | {"caption": None}).encode(),
        "one.png": png(77),
        "one.txt": b"",
        "one.json": b'{"score": 1, "words": ""}',
    }
    path = write_tar(tmp_path / "x.tar", files)
    clips = Tars(path, credit="nobody")
    assert isinstance(clips, Clips)
    assert clips.credit == "nobody" and str(clips) == str(path)
    told = [(i.key, i.caption, i.fps, i.frames, i.height, i.width) for i in clips.infos]
    assert told == [
        ("x/a/first", "größer", 12.0, 5, 32, 48),
        ("x/v1.0/second", "of json", 24.0, 9, 32, 48),
        ("x/pics", "", 6.5, 3, 6, 8),
        ("x/one", "", 1.0, 1, 6, 8),
    ]
    assert clips.read(2, range(3))[:, 0, 0, 0].tolist() == [2, 7, 10]
    assert clips.read(2, range(0, 3, 2))[:, 0, 0, 0].tolist() == [2, 10]
    assert clips.read(3, range(1))[0, 0, 0, 0] == 77
    chosen = Tars(path, caption="words", told=("score",))
    assert [info.caption for info in chosen.infos] == ["chosen", "chosen", "chosen", ""]
    assert [info.told for info in chosen.infos] == [{"score": s} for s in (3.0, 3.0, 3.0, 1.0)]


def test_any_window_is_read(tmp_path: Path):
    files = {f"{n}.mp4": mp4(n, 9 + n) for n in range(3)}
    clips = Tars(write_tar(tmp_path / "x.tar", files))
    for n in (2, 0, 1):
        for numbers in (range(9 + n), range(3, 7), range(1, 9, 3), range(8, 9)):
            found = clips.read(n, numbers)
            assert found.shape == (len(numbers), 32, 48, 3)
            assert min(map(psnr, found, clip(n, 9 + n)[numbers])) > 35


def test_shards_by_pattern_folder_and_list(tmp_path: Path):
    for n in range(8, 12):
        write_tar(tmp_path / f"s-{n:03d}.tar", {f"{n}.png": png(n)})

    def found(shards: Any) -> list[str]:
        return [path.name[2:5] for path in tar.paths(shards)]

    assert found(f"{tmp_path}/s-{{008..011}}.tar") == ["008", "009", "010", "011"]
    assert found(f"{tmp_path}/s-{{010,008}}.tar") == ["010", "008"]
    write_tar(tmp_path / "t-010.tar", {"t.png": png(1)})
    two = found(f"{tmp_path}/{{s,t}}-0{{10..10}}.tar")
    (tmp_path / "t-010.tar").unlink()
    assert two == ["010", "010"]
    assert found([f"{tmp_path}/s-00{{8..9}}.tar", tmp_path / "s-011.tar"]) == ["008", "009", "011"]
    config = TarShards(shards=f"{tmp_path}/s-{{008..011}}.tar")
    keys = [info.key for info in config.build().infos]
    assert keys == ["s-008/8", "s-009/9", "s-010/10", "s-011/11"]
    assert [info.key for info in Tars(tmp_path).infos] == keys


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("s-{008..013}.tar", r"s-009.tar: shard is missing"),
        ("s-{0..9999999}.tar", "stands for no range of at most"),
        ("s-{9..1}.tar", "stands for no range"),
        ("{0..99999}{0..99999}.tar", "stands for more than 1000000 files"),
        ("s-{a..c}.tar", r"\{a\.\.c\} is neither a range"),
        ("{s-008,./s-008}.tar", "are of one name"),
        ("empty", "holds no .tar files"),
    ],
)
def test_patterns_that_are_refused(tmp_path: Path, pattern: str, words: str):
    write_tar(tmp_path / "s-008.tar", {"8.png": png(8)})
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match=words):
        Tars(f"{tmp_path}/{pattern}")


@pytest.mark.parametrize("url", ["pipe:cat x.tar", "https://a.b/x.tar", "s3://b/x.tar", "a.tar::b"])
def test_nothing_but_files_is_opened(url: str):
    with pytest.raises(Refusal, match="only files on a disk are read"):
        Tars(url)


def written(folder: Path, **more: Any) -> tuple[Path, ...]:
    writer = Writer(folder, "train", **more)
    for n in range(5):
        writer.add(f"a/clip-{n}", clip(n, 9 + n), 24, f"bär {n}", told={"motion": n / 2})
    return writer.close()


def test_what_is_written_is_read(tmp_path: Path):
    paths = written(tmp_path / "out", shard_bytes=9_000)
    assert [p.name for p in paths] == [f"train-{n:06d}.tar" for n in range(len(paths))]
    assert len(paths) > 1 and sorted((tmp_path / "out").iterdir()) == list(paths)
    clips = Tars(tmp_path / "out", told=("motion",))
    assert [info.key.partition("/")[2] for info in clips.infos] == [f"a/clip-{n}" for n in range(5)]
    for n, info in enumerate(clips.infos):
        truth = clip(n, 9 + n)
        assert (info.frames, info.height, info.width, info.fps) == (9 + n, 32, 48, 24.0)
        assert info.caption == f"bär {n}" and info.told == {"motion": n / 2}
        assert min(map(psnr, clips.read(n, range(9 + n)), truth)) > 38


def test_the_same_clips_give_the_same_bytes(tmp_path: Path):
    one, two = (written(tmp_path / name, shard_bytes=9_000) for name in "ab")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    with tarfile.open(one[0]) as archive:
        infos = archive.getmembers()
    names = [info.name for info in infos]
    assert names[:3] == ["a/clip-0.json", "a/clip-0.mp4", "a/clip-0.txt"] and names == sorted(names)
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname) for i in infos} == {(0, 0, 0, "", "")}


class Held:
    """Clips in memory."""

    credit = "nobody"

    def __init__(self, clips: Mapping[str, np.ndarray]):
        self._clips = list(clips.values())
        self.infos = [
            ClipInfo(key=k, caption=f"of {k}", fps=10.0, frames=len(c), height=32, width=48)
            for k, c in clips.items()
        ]
        self.fingerprint = digest(list(clips))

    def read(self, index: int, numbers: range) -> np.ndarray:
        return self._clips[index][numbers.start : numbers.stop : numbers.step]


def test_any_clips_are_exported(tmp_path: Path):
    held = Held({"x/a.mp4": clip(0), "x.mp4": clip(1, 12), "still": clip(2, 1)})
    paths = export(held, tmp_path / "out", "all")
    found = Tars(paths)
    assert [i.key for i in found.infos] == [f"all-000000/{n:08d}" for n in range(3)]
    for n, info in enumerate(found.infos):
        assert info.caption == held.infos[n].caption and info.fps == 10.0
        assert info.frames == held.infos[n].frames
        assert min(map(psnr, found.read(n, range(info.frames)), held.read(n, range(12)))) > 38
    with tarfile.open(paths[0]) as archive:
        member = archive.extractfile("00000001.json")
        assert member is not None and json.load(member)["key"] == "x.mp4"
    with pytest.raises(Refusal, match="is there already"):
        export(held, tmp_path / "out", "all")


@pytest.mark.parametrize("key", ["", "a.b", "/a", "../a", "a/", "a\nb", "__a__", "clip"])
def test_keys_that_name_no_sample(tmp_path: Path, key: str):
    writer = Writer(tmp_path, "train")
    writer.add("clip", clip(0, 2), 24, "")
    with pytest.raises(Refusal, match="names no sample, or comes twice"):
        writer.add(key, clip(0, 2), 24, "")
    assert len(writer.close()) == 1


def test_the_index_is_made_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    (path,) = written(tmp_path / "out")
    made = Tars(path)
    monkeypatch.setattr(index, "each", None)  # a second pass would fall over this
    again = Tars(path)
    assert again.infos == made.infos and again.fingerprint == made.fingerprint
    np.testing.assert_array_equal(again.read(3, range(2, 5)), made.read(3, range(2, 5)))
    copy = pickle.loads(pickle.dumps(again))
    np.testing.assert_array_equal(copy.read(0, range(2)), made.read(0, range(2)))
    assert len(list(cache.iterdir())) == 1
    with pytest.raises(TypeError):
        Tars(path, fps=3)


def test_fingerprint_is_of_the_clips(tmp_path: Path):
    files = {"a.mp4": mp4(0), "a.txt": b"x", "b.png": png(3)}
    (tmp_path / "2").mkdir()
    prints = [
        Tars(write_tar(tmp_path / "x.tar", files)).fingerprint,
        Tars(write_tar(tmp_path / "2" / "x.tar", files, tarfile.PAX_FORMAT)).fingerprint,
        Tars(write_tar(tmp_path / "x.tar", files | {"a.txt": b"other"})).fingerprint,
        Tars(write_tar(tmp_path / "x.tar", files | {"b.png": png(4)})).fingerprint,
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_a_damaged_sample_is_named_or_skipped(tmp_path: Path):
    cut = mp4(1)[:-40]
    path = write_tar(tmp_path / "x.tar", {"a.mp4": mp4(0), "b.mp4": cut, "c.mp4": mp4(2)})
    with pytest.raises(Refusal, match=r"1 of 3 unreadable: .*x\.tar: b: video in memory: is cut s"):
        Tars(path)
    for _ in range(2):  # the second time from the index
        clips = Tars(path, bad_files=SkipBad())
        assert [info.key for info in clips.infos] == ["x/a", "x/c"]
        assert min(map(psnr, clips.read(1, range(9)), clip(2))) > 35


@pytest.mark.parametrize(
    ("files", "asked", "words"),
    [
        ({"a.mp4": b"#EXTM3U\n/etc/passwd\n" * 20}, {}, "a: video in memory: is not a video"),
        ({"a.mp4": b""}, {}, "a: video in memory: is empty"),
        ({"a.png": b"GIF89a" + bytes(40)}, {}, "a: picture in memory: is not a PNG"),
        ({"a.png": png(1, (200, 200))}, {"limits": Limits(pixels=999)}, "over the limit of 999"),
        ({"a.png": png(1)}, {"limits": Limits(bytes=30)}, r"a\.png: has \d+ bytes; at most 30"),
        ({"a.mp4": mp4(0), "a.txt": b"\xff"}, {}, r"a\.txt: is not UTF-8"),
        ({"a.png": png(1), "a.json": b"{"}, {}, r"a\.json: is no JSON"),
        ({"a.png": png(1), "a.json": b"[" * 20_000}, {}, r"a\.json: is no JSON"),
        ({"a.png": png(1), "a.json": b"[]"}, {}, r"a\.json: holds no fields"),
        ({"a.png": png(1), "a.txt": bytes(2**20 + 1)}, {}, r"a\.txt: has 1048577 bytes"),
        ({"a.png": png(1), "a.json": b'{"caption": 3}'}, {}, "its caption is no text: '3'"),
        ({"a.png": png(1)}, {"caption": "x"}, r"its \.json has no field 'x'"),
        ({"a.png": png(1), "a.json": b'{"s": NaN}'}, {"told": ("s",)}, "field 's' of its .json is"),
        ({"a.png": png(1), "a.json": b'{"fps": -1}'}, {}, "has -1 frames a second"),
        ({"a.0.png": png(1), "a.1.png": png(1)}, {}, "do not tell their rate; give fps"),
        ({"a.0.png": png(1), "a.00.png": png(1)}, {"fps": 2}, "holds several clips"),
        ({"a.mp4": mp4(0), "a.low.mp4": mp4(0)}, {}, r"several clips \(\.mp4, \.low\.mp4\); say"),
        ({"a.txt": b"only words"}, {}, "holds no clip"),
        ({"a.png": png(1)}, {"fps": 0}, "fps must be above 0"),
    ],
)
def test_samples_that_are_refused(
    tmp_path: Path, files: dict[str, bytes], asked: dict[str, Any], words: str
):
    path = write_tar(tmp_path / "x.tar", files)
    with pytest.raises(Refusal, match=words) as caught:
        Tars(path, **asked)
    assert "\n" not in str(caught.value)


def test_one_of_several_videos_is_chosen(tmp_path: Path):
    files = {"a.mp4": mp4(0, 9), "a.low.mp4": mp4(0, 4), "a.jpg": png(5)}
    path = write_tar(tmp_path / "x.tar", files)
    lengths = {name: Tars(path, video=name).infos[0].frames for name in ("mp4", "low.mp4", ".jpg")}
    assert lengths == {"mp4": 9, "low.mp4": 4, ".jpg": 1}


def test_pictures_of_other_sizes_are_refused_when_read(tmp_path: Path):
    files = {"a.0.png": png(1), "a.1.png": png(1, (5, 5)), "a.2.png": png(1)}
    clips = Tars(write_tar(tmp_path / "x.tar", files), fps=4)
    assert clips.read(0, range(0, 3, 2)).shape == (2, 6, 8, 3)
    with pytest.raises(Refusal, match=r"x\.tar: x/a: picture 1 of 3 differs in size"):
        clips.read(0, range(3))


def with_links(path: Path) -> None:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    with tarfile.open(path, "w") as archive:
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"bad{number}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("/etc/abs.png", "../up.png", "a/../../up.png", "new\nline.png", "good.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(9))
            archive.addfile(info, BytesIO(png(9)))
        sparse = tarfile.TarInfo("sparse.png")
        sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 0
        archive.addfile(sparse)


def test_what_is_no_plain_file_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with_links(tmp_path / "x.tar")
    with caplog.at_level(logging.WARNING):
        clips = Tars(tmp_path / "x.tar")
    assert [info.key for info in clips.infos] == ["x/good"]
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert "passing over 'bad0.png' (a link), 'bad1.png' (a link), 'bad2.png' (no plain" in line
    assert line.endswith("and 4 more")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "x.tar"]


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A tar header that says what it is told to, with a right checksum."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157], block[148:156] = size, kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def huge(size: int) -> bytes:
    """A size in base 256, which may be negative."""
    return (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=True)


def pax(*fields: bytes) -> bytes:
    lines = b"".join(b"%d %s\n" % (len(f) + 2 + len(str(len(f) + 4)), f) for f in fields)
    return header("x", octal(len(lines)), b"x") + lines.ljust(
        -(-len(lines) // BLOCK) * BLOCK, b"\0"
    )


PICTURE = png(1).ljust(-(-len(png(1)) // BLOCK) * BLOCK, b"\0")
GOOD = header("a.png", octal(len(png(1)))) + PICTURE
END = bytes(2 * BLOCK)
LIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no readable tar file"),
    "no tar": (b"what is this" * 200, "is no readable tar file"),
    "gzip": (b"\x1f\x8b" + bytes(2000), "is packed by gzip, which has no random access; unpack it"),
    "cut in data": (GOOD[:-BLOCK], "x.tar: is no readable tar file"),
    "cut in header": (GOOD + GOOD[:100], "is cut short or damaged at byte"),
    "no end": (GOOD, "is cut short or damaged at byte"),
    "noise after": (GOOD + b"\x07" * BLOCK + END, "is cut short or damaged at byte"),
    "twice": (GOOD + GOOD + END, "has two files 'a.png'"),
    "larger": (header("a.png", octal(2**32)) + PICTURE + END, "has 4294967296 bytes"),
    "huge": (header("a.png", huge(2**70)) + PICTURE + END, "is no readable tar file"),
    "negative": (GOOD + header("b.png", huge(-len(GOOD) - BLOCK)) + END, "has -"),
    "long name": (header("x", octal(10**8), b"L") + bytes(10_000), "a header of 100000256 bytes"),
    "negative name": (GOOD + header("x", huge(-BLOCK), b"L") + END, "a header of -512 bytes"),
    "large pax": (header("x", octal(10**6), b"x") + bytes(10**6) + END, "a header of 1000448"),
    "pax size": (pax(b"size=99999999999999") + GOOD + END, "is no readable tar file"),
    "pax negative": (pax(b"size=-1536") + GOOD + END, "has -1536 bytes"),
    "pax chain": (pax(b"comment=x") * 3000 + GOOD + END, "is no readable tar file"),
}


@pytest.mark.parametrize("lie", LIES)
def test_tar_files_that_lie(tmp_path: Path, lie: str):
    data, words = LIES[lie]
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(Refusal, match=words) as caught:
        Tars(tmp_path / "x.tar")
    assert str(caught.value).startswith(f"{tmp_path}/x.tar: ") and "\n" not in str(caught.value)


def test_samples_that_come_again(tmp_path: Path):
    files = {"a.png": png(1), "b.png": png(2), "a.txt": b"too late"}
    with pytest.raises(Refusal, match="the sample 'a' comes twice"):
        Tars(write_tar(tmp_path / "x.tar", files))
    with pytest.raises(Refusal, match=r"the sample 'a' has two files \.png"):
        Tars(write_tar(tmp_path / "y.tar", {"a.png": png(1), "a.PNG": png(2)}))


def test_long_names_and_sizes_in_other_layouts(tmp_path: Path):
    """GNU and PAX headers, as other programs write them for what ustar cannot say."""
    name = "/".join(["ordner"] * 30) + "/größe"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar(tmp_path / f"x{form}.tar", {f"{name}.png": png(4)}, form)
        assert [info.key for info in Tars(path).infos] == [f"x{form}/{name}"]


def test_a_tar_file_that_changes_after_opening(tmp_path: Path):
    path = write_tar(tmp_path / "x.tar", {"a.png": png(1), "b.mp4": mp4(0)})
    clips = Tars(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Refusal, match=r"x\.tar: x/b: .*is cut short"):
        clips.read(1, range(2))
