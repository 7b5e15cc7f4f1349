from dataclasses import replace
from functools import partial
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import Samples, Windowed
from vdm_jax.data.files import Listed, Videos
from vdm_jax.data.folder import Folder, VideoFolder
from vdm_jax.data.loader import Loader
from vdm_jax.data.source import Source
from vdm_jax.data.transform import Windows


def clip(seed: int, t: int) -> np.ndarray:
    y, x = np.mgrid[:48, :64]
    waves = [127 + 100 * np.sin((x + y * seed + 3 * i) / 17) for i in range(t)]
    return np.repeat(np.stack(waves)[..., None], 3, axis=-1).astype(np.uint8)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    video.write(tmp_path / "b.mp4", clip(1, 20), 8)
    video.write(tmp_path / "deep" / "er" / "a.MP4", clip(2, 9), 24)
    video.write(tmp_path / "short.mp4", clip(3, 3), 24)
    (tmp_path / "b.txt").write_text("waves go by\n")
    (tmp_path / "notes.md").write_text("not a video")
    return tmp_path


def opened(path: Path, windows: Windows, size: tuple[int, int], **more) -> Windowed:
    height, width = size
    part = VideoFolder(directory=str(path), windows=windows, height=height, width=width, **more)
    return part.build()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2) + 1e-12))


def test_windows_captions_and_keys(videos: Path):
    source = opened(videos, Windows(num_frames=4, every=2), (48, 64))
    assert isinstance(source, Source)
    samples = [source[i] for i in range(len(source))]
    assert [s["key"] for s in samples] == ["b.mp4:0", "b.mp4:8", "deep/er/a.MP4:0"]
    assert [s["caption"] for s in samples] == ["waves go by", "waves go by", ""]
    assert [float(s["fps"]) for s in samples] == [4, 4, 12]
    assert psnr(samples[1]["video"], clip(1, 20)[8:15:2]) > 35
    assert psnr(samples[2]["video"], clip(2, 9)[:7:2]) > 35
    batch = next(Loader(source, batch_size=3, seed=0))
    assert batch["video"].shape == (3, 4, 48, 64, 3)


def test_resampling_to_one_rate(videos: Path):
    source = opened(videos, Windows(num_frames=3), (16, 16), fps=8.0)
    keys = [source[i]["key"] for i in range(len(source))]
    assert keys == [f"b.mp4:{i}" for i in range(0, 18, 3)] + ["deep/er/a.MP4:0"]
    assert {float(source[i]["fps"]) for i in range(len(source))} == {8}


def test_fingerprint_follows_contents(videos: Path):
    def of(frames: int = 4) -> str:
        return opened(videos, Windows(num_frames=frames), (16, 16)).fingerprint

    first = of()
    assert first == of() != of(5)
    (videos / "b.txt").write_text("something else")
    assert of() != first


def test_bad_files_are_all_named_or_skipped(videos: Path, caplog: pytest.LogCaptureFixture):
    whole = (videos / "b.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "text.mov").write_text("ffconcat version 1.0\nfile b.mp4\n")
    windows = Windows(num_frames=4, every=2)
    with pytest.raises(Refusal, match="2 of 5 unreadable") as refusal:
        opened(videos, windows, (16, 16))
    assert "cut.mp4" in str(refusal.value) and "text.mov" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    part = Samples(
        clips=Folder(directory=str(videos), bad_share=0.4), windows=windows, height=16, width=16
    )
    assert len(part.build()) == 3
    assert "skipping 2 of 5 unreadable" in caplog.text and "text.mov" in caplog.text
    with pytest.raises(Refusal, match=r"2 of 5 unreadable, over the share of 0\.3"):
        replace(part, clips=replace(part.clips, bad_share=0.3)).build()


def test_nothing_to_read_is_refused(tmp_path: Path, videos: Path):
    windows = Windows(num_frames=4)
    with pytest.raises(Refusal, match="no such folder"):
        opened(tmp_path / "none", windows, (16, 16))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match="holds none of"):
        opened(tmp_path / "empty", windows, (16, 16))
    with pytest.raises(Refusal, match="no clip has 40 frames"):
        opened(videos, Windows(num_frames=40), (16, 16))


def test_a_split_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Outside tests nothing else checks it."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for part in (Folder, partial(VideoFolder, windows=Windows(num_frames=4), height=8, width=8)):
        with pytest.raises(Refusal, match="must be one of all, train, test, got 'training'"):
            part(directory="d", split="training")


@pytest.mark.parametrize("fps", [0.0, -5.0, float("inf"), float("nan")])
def test_what_is_no_rate_is_refused(videos: Path, fps: float):
    said = f"^fps must be above 0, got {fps}$"
    with pytest.raises(Refusal, match=said):
        Folder(directory="d", fps=fps)
    with pytest.raises(Refusal, match=said):
        opened(videos, Windows(num_frames=4), (8, 8), fps=fps)
    with pytest.raises(Refusal, match=said):
        Videos(videos, [Listed(name="b.mp4")], fps=fps)


def test_a_caption_begins_behind_its_byte_order_mark(videos: Path):
    (videos / "b.txt").write_text("waves", encoding="utf-8-sig")
    assert Folder(directory=str(videos)).build().infos[0].caption == "waves"
