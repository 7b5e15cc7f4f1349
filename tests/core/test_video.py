"""Videos come back as written; broken and hostile files end in one line that names them."""

import os
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.video import H264, Limits


def scene(t: int = 24, h: int = 64, w: int = 96) -> np.ndarray:
    """Smooth moving waves, so that every frame and both axes are told apart."""
    y, x = np.mgrid[:h, :w]
    channels = lambda i: (  # noqa: E731
        127 + 100 * np.sin((x + 2 * i) / 19),
        127 + 100 * np.cos((y - i) / 17),
        127 + 90 * np.sin((x + y + i) / 21),
    )
    return np.stack([np.stack(channels(i), -1) for i in range(t)]).clip(0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2) + 1e-12))


def write_with(
    path: Path,
    frames: np.ndarray,
    codec: str,
    *,
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """A file as another program would write it; times are in 1/24 s."""
    with av.open(str(path), "w", options={}) as file:
        stream = file.add_stream(codec, rate=24, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 24)
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[index], Fraction(1, 24)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


def one_line(refusal: pytest.ExceptionInfo, path: Path) -> str:
    text = str(refusal.value)
    assert "\n" not in text and str(path) in text
    return text


@pytest.mark.parametrize(("name", "bound"), [("a.mp4", 41), ("a.webp", 38), ("a.gif", 27)])
def test_round_trip(tmp_path: Path, name: str, bound: float):
    frames = scene()
    video.write(tmp_path / name, frames, 20)
    clip = video.read(tmp_path / name)
    assert clip.frames.shape == frames.shape and clip.frames.dtype == np.uint8
    assert clip.fps == 20
    for index, frame in enumerate(frames):
        assert psnr(clip.frames[index], frame) > bound
    assert list(tmp_path.iterdir()) == [tmp_path / name]  # no temporary file stays


@pytest.mark.parametrize("size", [(64, 96), (72, 104), (320, 576)])
def test_the_same_frames_give_the_same_bytes(size: tuple[int, int]):
    frames = scene(12, *size)
    assert len({video.encode(frames, 20, H264(threads=1)) for _ in range(12)}) == 1


def test_a_png_folder_is_exact(tmp_path: Path):
    frames = scene(12)
    video.write(tmp_path / "frames", frames, 12.5)
    assert sorted(os.listdir(tmp_path / "frames"))[::11] == ["00000.png", "00011.png"]
    clip = video.read(tmp_path / "frames")
    np.testing.assert_array_equal(clip.frames, frames)
    assert clip.fps == 12.5


def test_colours_keep_their_level(tmp_path: Path):
    """A matrix or range mixed up between writer and reader shifts these by 5 to 20."""
    colours = [(220, 0, 40), (0, 180, 30), (20, 30, 250), (255, 255, 255), (0, 0, 0)]
    frames = np.zeros((5, 32, 32, 3), np.uint8) + np.array(colours, np.uint8)[:, None, None]
    video.write(tmp_path / "a.mp4", frames, 5)
    error = video.read(tmp_path / "a.mp4").frames.astype(int) - frames
    assert np.abs(error).max() <= 3


def test_odd_sizes_repeat_the_last_row_and_column(tmp_path: Path):
    frames = scene(4, 33, 45)
    video.write(tmp_path / "a.mp4", frames, 8)
    clip = video.read(tmp_path / "a.mp4")
    assert clip.frames.shape == (4, 34, 46, 3)
    assert psnr(clip.frames[:, :33, :45], frames) > 38
    assert psnr(clip.frames[:, 33, :45], frames[:, 32]) > 30


def test_mp4_starts_fast(tmp_path: Path):
    video.write(tmp_path / "a.mp4", scene(4), 8)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_identical_frames_are_kept(tmp_path: Path):
    frames = np.repeat(scene(3), [1, 4, 2], axis=0)
    for name in ("a.gif", "a.webp", "a.mp4"):
        video.write(tmp_path / name, frames, 10)
        assert video.read(tmp_path / name).frames.shape == frames.shape, name


def test_encode_decode_in_memory():
    frames = scene(17)
    data = video.encode(frames, 24, H264(crf=5, keyframe_interval=1, threads=1))
    clip = video.decode(data, start=5, stop=9)
    assert clip.frames.shape == (4, 64, 96, 3) and clip.fps == 24
    assert min(psnr(a, b) for a, b in zip(clip.frames, frames[5:9], strict=True)) > 41


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mov", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.avi", "mpeg4"),
        ("a.mpg", "mpeg2video"),
        ("a.ts", "libx264"),
    ],
)
def test_every_container_is_read_and_sought_in(tmp_path: Path, name: str, codec: str):
    frames = scene(60)
    path = write_with(tmp_path / name, frames, codec, options={"g": "12", "b": "800000"})
    clip = video.read(path)
    assert clip.frames.shape == frames.shape and clip.fps == 24
    assert psnr(clip.frames, frames) > 27
    for start in (1, 13, 40, 59):
        window = video.read(path, start=start, stop=start + 5).frames
        assert len(window) == min(5, 60 - start)
        assert psnr(window, clip.frames[start : start + 5]) > 45, start
    assert video.probe(path).width == 96
    assert video.measure(path) == (60, 24)


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv422p10le", "gray", "yuv420p10le"])
def test_odd_pixel_formats(tmp_path: Path, pix_fmt: str):
    frames = scene(4)
    if pix_fmt == "gray":
        frames = np.repeat(frames[..., :1], 3, axis=-1)
    path = write_with(
        tmp_path / "a.mkv", frames, "ffv1" if pix_fmt == "gray" else "libx264", pix_fmt=pix_fmt
    )
    assert psnr(video.read(path).frames, frames) > 33


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_rotation_metadata_is_applied(tmp_path: Path, rotation: int, mirrored: bool):  # noqa: FBT001
    frames = scene(3)
    path = write_with(tmp_path / "a.mp4", frames, "libx264", rotation=rotation, mirrored=mirrored)
    upright = np.rot90(frames, rotation // 90, axes=(1, 2))  # counterclockwise, as FFmpeg has it
    upright = upright[:, :, ::-1] if mirrored else upright
    assert psnr(video.read(path).frames, upright) > 33
    small = (24, 16) if rotation % 180 else (16, 24)
    assert video.read(path, size=small).frames.shape[1:3] == small


def test_uneven_time_stamps_become_a_constant_rate(tmp_path: Path):
    frames = scene(5)
    times = [0, 1, 5, 6, 12]  # in 1/24 s
    path = write_with(tmp_path / "a.mkv", frames, "libx264", times=times)
    shown = [max(i for i, t in enumerate(times) if t <= tick) for tick in range(13)]
    clip = video.read(path, fps=24)
    assert clip.fps == 24 and len(clip.frames) == 13
    assert psnr(clip.frames, frames[shown]) > 33
    assert video.measure(path, fps=24) == (13, 24)
    half = video.read(path, fps=12)
    assert len(half.frames) == 7 and psnr(half.frames[:3], frames[[0, 1, 1]]) > 33


def test_resize_is_antialiased(tmp_path: Path):
    stripes = np.zeros((2, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    video.write(tmp_path / "a.mp4", stripes, 8, codec=H264(crf=1))
    small = video.read(tmp_path / "a.mp4", size=(16, 16)).frames
    assert small.shape == (2, 16, 16, 3) and np.abs(small.astype(int) - 127).max() < 30


def test_streaming_equals_reading(tmp_path: Path):
    video.write(tmp_path / "a.mp4", scene(20), 8)
    streamed = list(video.frames(tmp_path / "a.mp4", start=3, stop=9))
    np.testing.assert_array_equal(streamed, video.read(tmp_path / "a.mp4").frames[3:9])


# Refusals -----------------------------------------------------------------------------------


def make_mp4(path: Path, **options: str) -> bytes:
    return write_with(path, scene(24), "libx264", options=options).read_bytes()


def test_missing_empty_folder_device(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "dir.mp4").mkdir()
    os.mkfifo(tmp_path / "fifo.mp4")
    for name, words in [
        ("none.mp4", "no such file"),
        ("empty.mp4", "is empty"),
        ("dir.mp4", "no numbered PNG"),
        ("fifo.mp4", "not a regular file"),
    ]:
        with pytest.raises(Refusal, match=words) as refusal:
            video.read(tmp_path / name)
        one_line(refusal, tmp_path / name)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.mp4", "concat:a.mp4|b.mp4", "pipe:0"])
def test_addresses_are_not_opened(url: str):
    with pytest.raises(Refusal, match="no such file"):
        video.read(url)


def test_text_and_noise_are_not_videos(tmp_path: Path):
    path = tmp_path / "a.mp4"
    for data in (b"hello, world " * 30, np.random.default_rng(0).bytes(5000), b"\x00" * 3000):
        path.write_bytes(data)
        with pytest.raises(Refusal, match="not a video by its contents") as refusal:
            video.read(path)
        one_line(refusal, path)


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.mkv"])
def test_playlists_are_refused_and_their_files_left_alone(tmp_path: Path, playlist: str, name: str):
    make_mp4(tmp_path / "secret.mp4")
    os.utime(tmp_path / "secret.mp4", (0, 0))
    path = tmp_path / name
    path.write_text(playlist)
    with pytest.raises(Refusal, match="not a video by its contents"):
        video.read(path)
    # with a video's first bytes in front, the pinned demuxer must still not follow it
    for magic in (b"\x00\x00\x00\x14ftypisom\x00\x00\x00\x00isom", b"\x1a\x45\xdf\xa3\x80"):
        path.write_bytes(magic + b"\n" + playlist.encode())
        with pytest.raises(Refusal) as refusal:
            video.read(path)
        one_line(refusal, path)
    assert os.stat(tmp_path / "secret.mp4").st_atime == 0  # it was never read


@pytest.mark.parametrize("name", ["first.mp4", "last.mp4", "a.mkv", "a.webm", "a.avi"])
def test_truncation_is_noticed_anywhere(tmp_path: Path, name: str):
    codec = {"a.webm": "libvpx", "a.avi": "mpeg4"}.get(name, "libx264")
    write_with(tmp_path / name, scene(24), codec)
    if name == "first.mp4":
        video.write(tmp_path / name, scene(24), 24)
    data = (tmp_path / name).read_bytes()
    for tenth in [0.5, *range(1, 10), 9.9]:
        path = tmp_path / f"cut.{name}"
        path.write_bytes(data[: int(len(data) * tenth / 10)])
        with pytest.raises(Refusal) as refusal:
            video.read(path)
        one_line(refusal, path)
        with pytest.raises(Refusal):
            video.measure(path)


def test_a_file_cut_between_frames_is_noticed(tmp_path: Path):
    video.write(tmp_path / "a.mp4", scene(24), 24, codec=H264(keyframe_interval=1))
    data = (tmp_path / "a.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4"), format="mp4") as file:
        at = [packet.pos for packet in file.demux(video=0) if packet.size][15]
    (tmp_path / "b.mp4").write_bytes(data[:at])
    with pytest.raises(Refusal, match="is cut short"):
        video.read(tmp_path / "b.mp4")


def test_audio_only_and_no_frames(tmp_path: Path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    with pytest.raises(Refusal, match="no video stream") as refusal:
        video.read(tmp_path / "sound.mp4")
    one_line(refusal, tmp_path / "sound.mp4")
    with pytest.raises(Refusal):
        video.write(tmp_path / "none.mp4", scene(4)[:0], 24)


def test_mutated_files_are_read_or_refused(tmp_path: Path):
    """Nothing but Refusal ever comes out, whatever bytes change."""
    data = bytearray(make_mp4(tmp_path / "good.mp4"))
    rng = np.random.default_rng(0)
    path = tmp_path / "bad.mp4"
    refused = 0
    for _ in range(60):
        mutant = data.copy()
        header = data.index(b"moov") + rng.integers(0, len(data) - data.index(b"moov"), 6)
        for at in [*header, *rng.integers(0, len(data), 6)]:
            mutant[at] = rng.integers(256)
        path.write_bytes(mutant)
        try:
            assert len(video.read(path, limits=Limits(frames=500)).frames)
        except Refusal as refusal:
            refused += 1
            assert "\n" not in str(refusal) and str(path) in str(refusal)
    assert refused > 20


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(pixels=64 * 95), "96x64 are over the limit"),
        (Limits(seconds=0.5), "at most 0.5 s"),
        (Limits(fps=20), "frame rate 24"),
        (Limits(frames=23), "24 frames"),
        (Limits(bytes=24 * 64 * 96 * 3 - 1), "decodes to more"),
        (Limits(streams=0), "1 streams"),
    ],
)
def test_limits_hold_before_decoding(tmp_path: Path, limits: Limits, words: str):
    data = bytearray(make_mp4(tmp_path / "a.mp4"))
    at = data.index(b"mdat") + 4
    data[at : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - at)  # undecodable
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(Refusal, match=words):
        video.read(tmp_path / "a.mp4", limits=limits)


def test_a_change_of_size_is_refused(tmp_path: Path):
    small, large = scene(3), scene(3, 80, 128)
    for name, frames in (("a.m2v", small), ("b.m2v", large)):
        write_with(tmp_path / name, frames, "mpeg2video")
    joined = (tmp_path / "a.m2v").read_bytes() + (tmp_path / "b.m2v").read_bytes()
    (tmp_path / "c.m2v").write_bytes(joined)
    with pytest.raises(Refusal, match=r"changes its size at frame \d"):
        video.read(tmp_path / "c.m2v")
    assert video.read(tmp_path / "c.m2v", size=(32, 48)).frames.shape[1:] == (32, 48, 3)


def test_limits_hold_while_decoding(tmp_path: Path):
    """Matroska does not say how many frames follow."""
    write_with(tmp_path / "a.mkv", scene(24), "libx264")
    with pytest.raises(Refusal, match="at most 10 are read"):
        video.read(tmp_path / "a.mkv", limits=Limits(frames=10))
    assert len(video.read(tmp_path / "a.mkv", stop=10, limits=Limits(frames=10)).frames) == 10


def test_animation_limits(tmp_path: Path):
    video.write(tmp_path / "a.gif", scene(12), 10)
    with pytest.raises(Refusal, match="at most 11"):
        video.read(tmp_path / "a.gif", limits=Limits(frames=11))
    with pytest.raises(Refusal, match="decodes to more"):
        video.read(tmp_path / "a.gif", limits=Limits(bytes=64 * 96 * 3 * 11))
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: len(data) // 2])
    with pytest.raises(Refusal) as refusal:
        video.read(tmp_path / "cut.gif")
    one_line(refusal, tmp_path / "cut.gif")


def test_a_start_beyond_the_end_is_refused(tmp_path: Path):
    for name in ("a.mp4", "a.gif"):
        video.write(tmp_path / name, scene(6), 10)
        with pytest.raises(Refusal, match="ends after 6 frames, frame 6 was asked for"):
            video.read(tmp_path / name, start=6)


# Writing ------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    video.write(tmp_path / "a.mp4", scene(3), 8)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(Refusal, match="cannot be written"):
        video.write(tmp_path / "a.mp4", scene(3), 8, codec=H264(preset="no such preset"))
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_unwritable_places_are_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(Refusal, match="cannot be written"):
        video.write(tmp_path / "file" / "a.mp4", scene(2), 8)
    with pytest.raises(Refusal, match=r"cannot write \.xyz; use \.mp4"):
        video.write(tmp_path / "a.xyz", scene(2), 8)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("keep me")
    with pytest.raises(Refusal, match="folder of other things"):
        video.write(tmp_path / "photos", scene(2), 8)
    assert (tmp_path / "photos" / "mine.txt").read_text() == "keep me"


def test_a_full_disk_is_one_line_and_leaves_nothing():
    if not os.path.exists("/dev/shm"):
        pytest.skip("needs a file-size limit")
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from vdm_jax.core import video\nfrom vdm_jax.core.refusal import Refusal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), np.uint8)\n"
        "import tempfile, os\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    for name in ('a.mp4', 'a.gif', 'a.webp', 'a'):\n"
        "        try:\n            video.write(os.path.join(d, name), noise, 8)\n"
        "        except Refusal as r:\n            print(r)\n"
        "    print(os.listdir(d))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 5 and lines[-1] == "[]", done.stderr
    assert all("cannot be written" in line for line in lines[:4])


def test_a_png_folder_is_replaced_whole(tmp_path: Path):
    video.write(tmp_path / "frames", scene(9), 8)
    video.write(tmp_path / "frames", scene(4), 8)
    assert len(video.read(tmp_path / "frames").frames) == 4


# Pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_read_image(tmp_path: Path, name: str):
    picture = scene(1)[0]
    Image.fromarray(picture).save(tmp_path / name, quality=95)
    assert psnr(video.read_image(tmp_path / name), picture) > 33


def test_exif_orientation(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    Image.fromarray(scene(1)[0]).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert psnr(video.read_image(tmp_path / "a.jpg"), np.rot90(scene(1)[0], -1)) > 33


def test_picture_modes(tmp_path: Path):
    gray = scene(1)[0, ..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("gray.png", "deep.png"):
        expected = np.repeat(gray[..., None], 3, -1)
        np.testing.assert_array_equal(video.read_image(tmp_path / name), expected)
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = [255, 0, 0, 255]
    Image.fromarray(clear).save(tmp_path / "alpha.png")
    rgb = video.read_image(tmp_path / "alpha.png")
    assert rgb[0, 0].tolist() == [255, 0, 0] and rgb[7, 7].tolist() == [255, 255, 255]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


@pytest.mark.parametrize("side", [5000, 10_000, 60_000])
def test_a_png_bomb_is_refused_by_its_header(tmp_path: Path, side: int):
    (tmp_path / "a.png").write_bytes(png_header(side, side))
    with pytest.raises(Refusal, match="over the limit") as refusal:
        video.read_image(tmp_path / "a.png")
    one_line(refusal, tmp_path / "a.png")


def test_bad_pictures(tmp_path: Path):
    Image.fromarray(scene(1)[0]).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(scene(1)[0]).save(tmp_path / "a.tiff")
    (tmp_path / "vector.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("cut.png", "text.png", "empty.png", "a.tiff", "vector.png", "none.png", ""):
        with pytest.raises(Refusal) as refusal:
            video.read_image(tmp_path / name)
        one_line(refusal, tmp_path / name)


def test_importing_video_starts_no_jax():
    code = "import sys, vdm_jax.core.video; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Found by hostile files ---------------------------------------------------------------------


@pytest.mark.parametrize("bframes", ["0", "3"])
def test_avi_stamps_are_of_decoding(tmp_path: Path, bframes: str):
    """Pictures that are decoded in another order than shown come in the order shown, each once."""
    frames = scene(20)
    path = write_with(tmp_path / "a.avi", frames, "libx264", options={"bf": bframes})
    clip = video.read(path)
    assert clip.frames.shape == frames.shape and video.measure(path).frames == 20
    assert min(psnr(a, b) for a, b in zip(clip.frames, frames, strict=True)) > 33


def test_a_stamp_far_away_is_refused_before_it_is_waited_for(tmp_path: Path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", options={"live": "1"}) as file:  # it states no duration
        stream = file.add_stream("libx264", rate=24, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in scene(20)]
        packets = [packet for picture in pictures for packet in stream.encode(picture)]
        packets += stream.encode()
        packets[-1].pts = packets[-1].dts = 24 * 3600 * 5
        for packet in packets:
            file.mux(packet)
    with pytest.raises(Refusal, match="lasts longer than 14400 s"):
        video.measure(path)


def test_attachments_are_no_streams(tmp_path: Path):
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for number in range(20):
            file.add_attachment(f"{number}.ttf", "font/ttf", bytes(100))
        for frame in scene(4):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    assert len(video.read(tmp_path / "a.mkv").frames) == 4


def test_an_edit_list_that_passes_over_everything_ends_soon(tmp_path: Path):
    """600 kB of edits, each of which would have the whole video decoded for nothing."""
    data = make_mp4(tmp_path / "a.mp4")
    entries = struct.pack(">IiI", 1, 0, 0x10000) * 50_000
    table = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, 50_000) + entries
    at = data.index(b"edts") - 4
    old = int.from_bytes(data[at : at + 4], "big")
    longer = bytearray(data[:at] + struct.pack(">I4s", 8 + len(table), b"edts") + table)
    longer += data[at + old :]
    for kind in (b"moov", b"trak"):
        box = data.index(kind) - 4
        size = int.from_bytes(data[box : box + 4], "big") + len(table) + 8 - old
        longer[box : box + 4] = struct.pack(">I", size)
    (tmp_path / "a.mp4").write_bytes(longer)
    with pytest.raises(Refusal, match="10000 packets in a row are not to be shown"):
        video.measure(tmp_path / "a.mp4")
