"""Curating a video beside merely decoding it, in one run; and what each part of it costs.

    pip install -e ".[curate]" && python tests/bench/curate.py VIDEO [--rounds 3] [--size 256]

First the CPU time of each part, a frame, in this process. Then, A B A B: the command with the
default config but for OCR, and as many processes that only decode, once to FFmpeg's own pictures
and once to arrays of RGB; wall time, each from the start of a process to its end. The bar: at least
0.7 of the rate of decoding.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import av

from vdm_jax.core import video
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.stage import Span
from vdm_jax.curate.text import Text
from vdm_jax.data.record import RECORD_FRAMES, pack
from vdm_jax.data.transform import short_side

BAR = 0.7
SAMPLE = 480  # frames of which the parts are timed
CONFIG = """
from dataclasses import replace
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.text import Text

def config():
    plain = CurateConfig(size={size})
    return replace(
        plain,
        stages=tuple(each for each in plain.stages if not isinstance(each, Text)),
        rules=tuple(each for each in plain.rules if each.reason != "text"),
    )
"""


def parts(path: Path, size: int) -> None:
    """A table of CPU milliseconds a frame."""
    extent = video.measure(path)
    count = min(SAMPLE, extent.frames)
    start = (extent.frames - count) // 2
    height, width, _ = next(video.frames(path, stop=1)).shape
    small = short_side(height, width, min(size, height, width))
    stages = [each for each in CurateConfig(size=size).stages if not isinstance(each, Text)]
    print(f"{path.name}, {width}x{height}, stored {small[1]}x{small[0]}; CPU ms a frame")
    timed(f"decoded, {height} lines", count, lambda: decode(path, start, start + count, None))
    frames = timed(
        "decoded, scaled, RGB",
        count,
        lambda: list(video.frames(path, start=start, stop=start + count, size=small)),
    )
    span = Span(file="x", start=start, stop=start + count, fps=extent.fps, end=extent.frames)
    clips = timed("shots", count, lambda: list(CurateConfig().shots.clips(span, iter(frames))))
    clips = [clip for clip in clips if not clip.rejected]
    for config in stages:
        stage = config.build()
        stage.setup()
        timed(
            type(config).__name__.lower(), count, lambda s=stage: [[*s.process(c)] for c in clips]
        )
    timed(
        "JPEG",
        count,
        lambda: [
            pack("x", 0, clip.frames[start : start + RECORD_FRAMES])
            for clip in clips
            for start in range(0, len(clip.frames), RECORD_FRAMES)
        ],
    )


def timed(name: str, count: int, work: Callable):
    begin = time.process_time()
    made = work()
    print(f"| {name} | {(time.process_time() - begin) * 1000 / count:.2f} |", flush=True)
    return made


def decode(path: Path, start: int, stop: int, form: str | None) -> None:
    """With one thread: frames from about `start` to `stop`, to arrays if a form is given."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        rate, base = stream.guessed_rate, stream.time_base
        file.seek(int(start / rate / base), stream=stream)
        for picture in file.decode(stream):
            if picture.pts * base * rate >= stop:
                return
            if form:
                picture.to_ndarray(format=form)


def decoded(path: Path, form: str | None, frames: int) -> float:
    """Seconds that processes on all cores take to decode the whole, a part each."""
    cores = len(os.sched_getaffinity(0))
    ends = [frames * n // cores for n in range(cores + 1)]
    begin = time.perf_counter()
    with get_context("spawn").Pool(cores) as pool:
        jobs = zip([path] * cores, ends, ends[1:], [form] * cores, strict=False)
        pool.starmap(decode, jobs)
    return time.perf_counter() - begin


def curated(path: Path, size: int) -> float:
    """Seconds of the command."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "in"
        source.mkdir()
        os.link(path, source / path.name)
        config = Path(scratch) / "config.py"
        config.write_text(CONFIG.format(size=size))
        line = [sys.executable, "-m", "vdm_jax.curate", "--input", str(source), "--config",
                str(config), "--output", str(Path(scratch) / "out")]  # fmt: skip
        begin = time.perf_counter()
        subprocess.run(line, check=True, capture_output=True)
        return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    parts(options.video, options.size)
    frames = video.measure(options.video).frames
    kinds = {
        "curated": lambda: curated(options.video, options.size),
        "decoded": lambda: decoded(options.video, None, frames),
        "decoded to RGB": lambda: decoded(options.video, "rgb24", frames),
    }
    seconds = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, work in kinds.items():
            seconds[name].append(work())
    print("\n| | frames/s, median | curated : this |\n|---|---|---|")
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, median in medians.items():
        print(f"| {name} | {frames / median:.0f} | {median / medians['curated']:.2f} |")
    ratio = medians["decoded"] / medians["curated"]
    print(
        f"\n{ratio:.2f} of the rate of decoding; bar {BAR} {'held' if ratio >= BAR else 'missed'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
