"""Sound is read as it is, from files of any kind, and what is hostile ends in one line."""

import struct

import numpy as np
import pytest
from core.sounds import RATE, clicks, encoded, silence, tone, wav
from PIL import Image

from vdm_jax.core import sound, video
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sound import Sound
from vdm_jax.core.video import Limits


def heard(path, start=0.0, seconds=10.0):
    return sound.read(path, start=start, seconds=seconds)


def loudest(samples):
    """When it is loudest, in seconds."""
    return float(np.abs(samples).argmax() / RATE)


def test_a_wav_comes_back_as_written_and_in_parts(tmp_path):
    left, right = tone(1.0), clicks(1.0, [0.7])
    path = wav(tmp_path / "a.wav", np.stack([left, right], axis=1))
    both = heard(path)
    np.testing.assert_allclose(both.samples, [left, right], atol=1e-4)
    assert both.seconds == 1.0
    part = heard(path, start=0.25, seconds=0.5)
    np.testing.assert_array_equal(part.samples, both.samples[:, RATE // 4 : RATE * 3 // 4])
    np.testing.assert_allclose(part.mono, part.samples.sum(axis=0) / 2, atol=1e-6)
    assert heard(path, start=2.0).samples.shape == (2, 0)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.flac", "flac", 48_000, "mono"),
        ("a.mp3", "libmp3lame", RATE, "stereo"),
        ("a.ogg", "libopus", 48_000, "mono"),
        ("a.m4a", "aac", 22_050, "mono"),
        ("a.webm", "libopus", 48_000, "stereo"),
        ("a.mkv", "aac", RATE, "5.1"),
    ],
)
def test_a_click_is_heard_where_it_is(tmp_path, name, codec, rate, layout):
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    samples = clicks(2.0, [1.2])[:: RATE // rate] if rate < RATE else clicks(2.0, [1.2])
    if rate == 48_000:
        samples = np.interp(np.arange(2 * rate) / rate, np.arange(2 * RATE) / RATE, samples)
    path = encoded(tmp_path / name, [samples] * channels, codec, rate=rate, layout=layout)
    both = heard(path)
    assert len(both.samples) == min(2, channels)
    assert both.seconds == pytest.approx(2.0, abs=0.1)
    assert loudest(both.mono) == pytest.approx(1.2, abs=0.06)  # MP3 begins with its own silence


def test_a_film_carries_its_sound_as_long_as_it_lasts(tmp_path):
    path, frames = tmp_path / "film.mp4", np.zeros((36, 15, 16, 3), np.uint8)
    frames[::2] = 200
    both = Sound(np.stack([clicks(9.0, [1.0]), silence(9.0)]).astype(np.float32))
    assert video.write_film(path, iter(frames), 24, sound=both) == 36
    clip = video.read(path)
    assert clip.frames.shape == (36, 16, 16, 3) and clip.fps == 24
    assert np.abs(clip.frames[:, :15].astype(int) - frames).max() <= 3
    back = heard(path)
    assert loudest(back.samples[0]) == pytest.approx(1.0, abs=0.002)
    assert np.abs(back.samples[1]).max() < 0.01
    assert back.seconds == pytest.approx(1.5, abs=0.05)
    video.write_film(tmp_path / "again.mp4", iter(frames), 24, sound=both)
    assert (tmp_path / "again.mp4").read_bytes() == path.read_bytes()


def test_a_film_without_sound_is_the_file_that_write_makes(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    video.write_film(tmp_path / "a.mp4", iter(frames), 12)
    video.write(tmp_path / "b.mp4", frames, 12)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with pytest.raises(Refusal, match="needs a frame"):
        video.write_film(tmp_path / "c.mp4", iter(frames[:0]), 12)
    with pytest.raises(Refusal, match=r"is an \.mp4"):
        video.write_film(tmp_path / "c.gif", iter(frames), 12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def float_wav(path, values):
    data = np.asarray(values, "<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, RATE, 4 * RATE, 4, 32)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def test_what_is_too_loud_is_clipped(tmp_path):
    path = float_wav(tmp_path / "a.wav", [0.5, 7.0, -1e30] * 1000)
    np.testing.assert_array_equal(heard(path).samples[0, :3], [0.5, 1, -1])


def test_broken_and_hostile_files_are_refused(tmp_path):
    wav(tmp_path / "whole.wav", tone(0.5))
    (tmp_path / "list.wav").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/whole.wav\n")
    (tmp_path / "concat.mp3").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/whole.wav'\n")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "head.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:20])
    (tmp_path / "noise.mp3").write_bytes(b"ID3" + bytes(range(256)) * 40)
    (tmp_path / "noise.flac").write_bytes(b"fLaC" + bytes(range(256)) * 40)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.gif")
    video.write(tmp_path / "mute.mp4", np.zeros((3, 16, 16, 3), np.uint8), 8)
    cut = (tmp_path / "mute.mp4").read_bytes()
    (tmp_path / "cut.m4a").write_bytes(cut[: len(cut) // 2])
    float_wav(tmp_path / "nan.wav", [0.0, float("nan")] * 500)
    words = {
        "list.wav": "neither sound nor a video",
        "concat.mp3": "neither sound nor a video",
        "empty.wav": "is empty",
        "head.wav": "cannot be decoded|states|has no sound",
        "noise.mp3": "cannot be decoded|states|has no sound",
        "noise.flac": "cannot be decoded|states|has no sound",
        "picture.png": "neither sound nor a video",
        "picture.gif": "neither sound nor a video",
        "mute.mp4": "has no sound",
        "cut.m4a": "cut short",
        "nan.wav": "no numbers",
        "absent.wav": "no such file",
        "": "is a folder",
    }
    for name, wanted in words.items():
        with pytest.raises(Refusal, match=wanted) as refused:
            heard(tmp_path / name)
        assert str(tmp_path / name) in str(refused.value) and "\n" not in str(refused.value), name


@pytest.mark.parametrize(
    ("start", "seconds"), [(-1.0, 1.0), (0.0, 0.0), (0.0, float("nan")), (5.0, 6.0)]
)
def test_times_that_cannot_be_are_refused(tmp_path, start, seconds):
    path = wav(tmp_path / "a.wav", tone(0.1))
    with pytest.raises(Refusal, match="from 0 to 10 s"):
        sound.read(path, start=start, seconds=seconds, limits=Limits(seconds=10))
