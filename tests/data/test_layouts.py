"""Each published layout in miniature: what is found, in which order, with which captions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data.made import number_of, numbered
from PIL import Image

from vdm_jax.core import config as configs
from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import Clips, OpensClips, Samples
from vdm_jax.data.files import Pictures
from vdm_jax.data.layouts import (
    UCF101,
    CaptionTable,
    ChronoMagic,
    FrameFolders,
    PictureFolder,
    SkyTimelapse,
    WebVid,
    words,
)
from vdm_jax.data.loader import Loader
from vdm_jax.data.transform import Windows


def clip(path: Path, t: int = 5, first: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write(path.with_suffix(".mp4"), numbered(t, 16, 24, first), 8)
    path.with_suffix(".mp4").rename(path)  # names never decide how a file is opened


def picture(path: Path, number: int, h: int = 16, w: int = 24, **more) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbered(1, h, w, number)[0]).save(path, quality=95, **more)


def told(clips: Clips) -> list[tuple[str, str]]:
    return [(info.key, info.caption) for info in clips.infos]


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    names = (
        "Archery/v_Archery_g01_c01",
        "YoYo/v_YoYo_g08_c01",
        "HandstandPushups/v_HandStandPushups_g01_c02",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g09_c03",
    )
    for name in names:
        clip(tmp_path / "UCF-101" / f"{name}.avi")
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist02.txt").write_text(
        "YoYo/v_YoYo_g08_c01.avi 101\r\nApplyEyeMakeup/v_ApplyEyeMakeup_g09_c03.avi 1\r\n"
    )
    (lists / "testlist02.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    return tmp_path


def test_ucf101(ucf: Path):
    clips = UCF101(directory=str(ucf)).build()
    assert isinstance(clips, Clips)
    assert [info.caption for info in clips.infos] == [
        "apply eye makeup", "archery", "handstand pushups", "yo yo",
    ]  # fmt: skip
    assert [info.told["label"] for info in clips.infos] == [0, 1, 2, 3]
    train = UCF101(directory=str(ucf), split="train", lists=2)
    assert [(i.caption, i.told["label"]) for i in train.build().infos] == [
        ("apply eye makeup", 0), ("yo yo", 3),
    ]  # fmt: skip
    test = replace(train, split="test").build()
    assert told(test) == [("Archery/v_Archery_g01_c01.avi", "archery")]
    inner = replace(train, directory=str(ucf / "UCF-101")).build()
    assert inner.fingerprint == train.build().fingerprint != test.fingerprint
    with pytest.raises(Refusal, match=r"trainlist01\.txt"):
        replace(train, lists=1).build()
    sample = Samples(clips=train, windows=Windows(num_frames=2), height=8, width=8).build()[3]
    assert sample["label"] == 3 and number_of(sample["video"][1]) == 3
    assert words("JumpingJack") == "jumping jack" and words("TaiChi") == "tai chi"


def test_webvid(tmp_path: Path):
    rows = ["videoid,contentUrl,duration,page_dir,name"]
    for n in range(12):
        rows.append(f'{n}9,http://x/{n}9.mp4,PT00H00M05S,{n % 2}01_{n % 2}50,"Clip {n}, in colour"')
        if n != 4:
            clip(tmp_path / "videos" / f"{n % 2}01_{n % 2}50" / f"{n}9.mp4", first=n)
    table = tmp_path / "results_10M_train.csv"
    table.write_text("\n".join(rows) + "\n")
    part = WebVid(table=str(table), directory=str(tmp_path / "videos"))
    clips = part.build()
    assert told(clips)[4] == ("101_150/59.mp4", "Clip 5, in colour") and len(clips.infos) == 11
    assert number_of(clips.read(4, range(1, 2))[0]) == 6
    with pytest.raises(Refusal, match=r"1 of 12 unreadable, over the share of 0\.05.*49\.mp4"):
        replace(part, bad_share=0.05).build()
    with pytest.raises(Refusal, match=r"1 of 12 unreadable: .*49\.mp4: no such file"):
        replace(part, bad_share=0.0).build()


def test_webvid_says_what_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    clip(tmp_path / "a" / "1.mp4")
    (tmp_path / "t.csv").write_text("videoid,page_dir,name\n1,a,one\n2,a,two\n")
    part = WebVid(table=str(tmp_path / "t.csv"), directory=str(tmp_path), bad_share=0.5)
    assert told(part.build()) == [("a/1.mp4", "one")]
    assert "skipping 1 of 2 unreadable" in caplog.text and "a/2.mp4" in caplog.text
    (tmp_path / "t.csv").write_text("videoid,name\n1,one\n")
    with pytest.raises(Refusal, match="no column 'page_dir', only videoid, name"):
        part.build()
    (tmp_path / "t.csv").write_text("videoid,page_dir,name\n1,../b,one\n")
    with pytest.raises(Refusal, match="leads out of"):
        part.build()


def test_chronomagic(tmp_path: Path):
    clip(tmp_path / "videos" / "abc-1.mp4")
    (tmp_path / "t.csv").write_text('videoid,name\nabc-1,"Time-lapse, of a bud"\n')
    part = ChronoMagic(table=str(tmp_path / "t.csv"), directory=str(tmp_path / "videos"))
    assert told(part.build()) == [("abc-1.mp4", "Time-lapse, of a bud")]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_caption_tables(tmp_path: Path, suffix: str):
    names = {"b/2.mp4": "zwei Blüten", "1.mp4": ""}
    for name in names:
        clip(tmp_path / name)
    table = tmp_path / f"captions{suffix}"
    lines = {
        ".csv": ["\ufefffile,caption,other", *(f"{n},{c},x" for n, c in names.items())],
        ".jsonl": [json.dumps({"file": n, "caption": c}) for n, c in names.items()],
        ".txt": [f"{n}\t{c}" if c else n for n, c in names.items()],
    }[suffix]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part = CaptionTable(table=str(table))
    assert told(part.build()) == list(names.items())
    other = tmp_path / "elsewhere" / table.name
    other.parent.mkdir()
    text = table.read_text(encoding="utf-8").replace("file", "file_name").replace("caption", "text")
    other.write_text(text, encoding="utf-8")
    moved = CaptionTable(
        table=str(other), directory=str(tmp_path), file="file_name", caption="text"
    )
    assert moved.build().fingerprint == part.build().fingerprint
    table.write_text("" if suffix != ".csv" else "file\n")
    with pytest.raises(Refusal, match="lists no videos"):
        part.build()


def test_tables_that_are_none_are_refused(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("[1, 2\n")
    (tmp_path / "a.xlsx").write_text("x")
    for name, said in (("a.jsonl", "no jsonl table"), ("a.xlsx", r"no \.csv"), ("b.csv", "cannot")):
        with pytest.raises(Refusal, match=said):
            CaptionTable(table=str(tmp_path / name)).build()


def test_sky_timelapse_in_the_order_people_count(tmp_path: Path):
    root = tmp_path / "sky_train"
    for n in (9, 10, 11, 100):
        picture(root / "aB3" / "aB3_1" / f"aB3_frames_{n}.jpg", n // 9)
    for n in (46, 47, 48):
        picture(root / "aB3" / "aB3_10" / f"aB3_frames_{n:08d}.jpg", n - 40)
    picture(tmp_path / "sky_test" / "x" / "x_1" / "1.jpg", 0)
    clips = SkyTimelapse(directory=str(tmp_path), fps=25.0).build()
    assert isinstance(clips, Clips)
    assert [(i.key, i.frames, i.fps, i.height, i.width) for i in clips.infos] == [
        ("aB3/aB3_1", 4, 25.0, 16, 24), ("aB3/aB3_10", 3, 25.0, 16, 24),
    ]  # fmt: skip
    assert [number_of(f) for f in clips.read(0, range(4))] == [1, 1, 1, 11]
    assert [number_of(f) for f in clips.read(1, range(0, 3, 2))] == [6, 8]
    test = SkyTimelapse(directory=str(tmp_path), split="test").build()
    assert [info.frames for info in test.infos] == [1]


def test_frame_folders_captions_and_faults(tmp_path: Path):
    for n in range(3):
        picture(tmp_path / "v1.2" / f"{n}.png", n)
    (tmp_path / "v1.2.txt").write_text("a dot moves\n")
    part = FrameFolders(directory=str(tmp_path), fps=8.0)
    clips = part.build()
    assert told(clips) == [("v1.2", "a dot moves")]
    picture(tmp_path / "v1.2" / "1.png", 1, h=8)
    with pytest.raises(Refusal, match=r"1\.png: differs in size from 0\.png"):
        clips.read(0, range(3))
    assert part.build().fingerprint != clips.fingerprint
    (tmp_path / "v1.2" / "0.png").write_bytes(b"no picture")
    with pytest.raises(Refusal, match=r"1 of 1 unreadable: .*0\.png: is no readable picture"):
        part.build()


def test_pictures_are_clips_of_one_frame(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned
    picture(tmp_path / "a" / "turned.jpg", 3, exif=exif)
    picture(tmp_path / "plain.png", 20)
    (tmp_path / "plain.txt").write_text("grey")
    part = PictureFolder(directory=str(tmp_path))
    clips = part.build()
    assert told(clips) == [("a/turned.jpg", ""), ("plain.png", "grey")]
    assert [(i.frames, i.height, i.width) for i in clips.infos] == [(1, 24, 16), (1, 16, 24)]
    assert clips.read(0, range(1)).shape == (1, 24, 16, 3)
    source = Samples(clips=part, windows=Windows(num_frames=1), height=8, width=8).build()
    batch = next(Loader(source, batch_size=2, seed=0))
    assert batch["video"].shape == (2, 1, 8, 8, 3) and set(batch["fps"]) == {np.float32(1)}
    assert {number_of(v) for v in batch["video"]} == {3, 20}
    with pytest.raises(Refusal, match="bad_share must lie in"):
        replace(part, bad_share=2.0).build()


def test_parts_go_through_a_stored_config():
    parts = [
        UCF101(directory="d", split="test", lists=3),
        SkyTimelapse(directory="d"),
        WebVid(table="t.csv", directory="d"),
        ChronoMagic(table="t.csv", directory="d"),
        CaptionTable(table="t.csv"),
        PictureFolder(directory="d"),
    ]
    for part in parts:
        assert isinstance(part, OpensClips)
        whole = Samples(clips=part, windows=Windows(num_frames=4), height=8, width=8)
        assert configs.from_json(configs.to_json(whole)) == whole
    for part, said in ((parts[0], "no such folder"), (parts[1], "no such folder")):
        with pytest.raises(Refusal, match=said):
            part.build()


def test_tables_that_would_lose_captions_are_refused(tmp_path: Path):
    for name in ("1.mp4", "2.mp4"):
        clip(tmp_path / name)
    table = tmp_path / "t.csv"
    part = CaptionTable(table=str(table))
    table.write_text("file,caption\n1.mp4,a dog\n2.mp4,a dog, barking\n")
    with pytest.raises(Refusal, match=r"t\.csv: line 3 has more fields .*needs quotes"):
        part.build()
    table.write_text('file,caption\n1.mp4,a dog\n2.mp4,"a dog, barking"\n')
    assert told(part.build())[1] == ("2.mp4", "a dog, barking")
    with pytest.raises(Refusal, match="no column 'captoin', only file, caption"):
        replace(part, caption="captoin").build()
    table.write_text("file,caption\n1.mp4,a dog\n1.mp4,a cat\n")
    assert told(part.build()) == [("1.mp4", "a dog"), ("1.mp4", "a cat")]
    table.write_text("file\n1.mp4\n2.mp4\n")
    assert told(part.build()) == [("1.mp4", ""), ("2.mp4", "")]


@pytest.mark.parametrize("fps", [0.0, -5.0, float("inf")])
def test_what_is_no_rate_is_refused(tmp_path: Path, fps: float):
    said = f"^fps must be above 0, got {fps}$"
    for part in (FrameFolders, PictureFolder, SkyTimelapse, UCF101):
        with pytest.raises(Refusal, match=said):
            part(directory="d", fps=fps)
    for part in (WebVid, ChronoMagic, CaptionTable):
        with pytest.raises(Refusal, match=said):
            part(table="t.csv", directory="d", fps=fps)
    with pytest.raises(Refusal, match=said):
        Pictures(tmp_path, [], fps=fps)
