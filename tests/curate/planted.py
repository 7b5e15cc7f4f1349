"""Videos of which all is known: where they are cut, what stands still, what is written or spoilt.

A scene is a window that moves over a large picture of coloured noise, smooth enough to look like
something, with a disc that moves in it.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from vdm_jax.core import video

FPS, HEIGHT, WIDTH = 24, 144, 256


def picture(rng, height, width):
    """Coloured noise of several octaves, with contrast."""
    out = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((3, 1.0), (7, 0.7), (17, 0.4), (47, 0.3), (150, 0.3)):
        noise = rng.uniform(-1, 1, (cells, cells * 2, 3)).astype(np.float32)
        out += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    base = rng.uniform(90, 165, 3)
    return np.clip(base + 60 * out, 0, 255).astype(np.uint8)


def scene(rng, frames, speed=None):
    """Frames of a scene; speed: pixels a frame that the camera moves, drawn if absent."""
    angle = rng.uniform(0, 2 * np.pi)
    speed = rng.uniform(1.5, 3.0) if speed is None else speed
    reach = int(np.ceil(abs(speed) * frames)) + 2
    large = picture(rng, HEIGHT + 2 * reach, WIDTH + 2 * reach)
    colour = tuple(int(c) for c in rng.integers(0, 255, 3))
    start, way = rng.uniform(0.2, 0.8, 2), rng.uniform(-1, 1, 2) * (speed > 0)
    out = np.empty((frames, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(frames):
        x, y = reach + speed * t * np.cos(angle), reach + speed * t * np.sin(angle)
        shift = np.float32([[1, 0, -x], [0, 1, -y]])
        out[t] = cv2.warpAffine(large, shift, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        centre = start * (WIDTH, HEIGHT) + way * 2 * t
        cv2.circle(out[t], tuple(int(v) for v in centre), 18, colour, -1, cv2.LINE_AA)
    return out


def dissolve(a, b, length):
    """The end of `a` becomes the beginning of `b` within so many frames."""
    share = np.linspace(0, 1, length + 2)[1:-1, None, None, None]
    mixed = (1 - share) * a[-length:] + share * b[:length]
    return np.concatenate([a[:-length], mixed.astype(np.uint8), b[length:]])


def fade(frames, length, end):
    """To black ("out") or from it ("in")."""
    share = np.linspace(0, 1, length)[:, None, None, None]
    out = frames.copy()
    if end == "out":
        out[-length:] = out[-length:] * share[::-1]
    else:
        out[:length] = out[:length] * share
    return out


def written(frames, lines=5):
    """Large text over the picture."""
    out = frames.copy()
    for frame in out:
        for line in range(lines):
            place = (12, 30 + 26 * line)
            cv2.putText(frame, "SUBSCRIBE NOW 2026", place, 0, 0.7, (255, 255, 255), 2, 16)
    return out


def spoilt(frames, how, rng):
    if how == "blurred":
        return np.stack([cv2.GaussianBlur(frame, (0, 0), 6) for frame in frames])
    if how == "noisy":
        noise = rng.normal(0, 30, frames.shape)
        return np.clip(frames + noise, 0, 255).astype(np.uint8)
    assert how == "dark"
    return (frames * 0.02).astype(np.uint8)


@dataclass
class Planted:
    """cuts: {file: [(first frame that belongs to no shot, first of the next)]}; equal for a hard
    cut. expected: {file: the reasons for which all its clips may be rejected, and have to be}.
    """

    folder: Path
    cuts: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)

    def write(self, name, frames, fps=FPS):
        path = self.folder / f"{name}.mp4"
        video.write(path, frames, fps, codec=video.H264(preset="veryfast", crf=18))
        return path


def joined(rng, shots, kinds):
    """(frames, cuts) of scenes that follow each other by "cut", "dissolve" or "fade"."""
    whole, cuts = shots[0], []
    for kind, shot in zip(kinds, shots[1:], strict=True):
        here = len(whole)
        if kind == "cut":
            whole = np.concatenate([whole, shot])
            cuts.append((here, here))
        elif kind == "dissolve":
            length = int(rng.integers(8, 30))
            whole = np.concatenate(
                [whole[:-length], dissolve(whole[-length:], shot[:length], length), shot[length:]]
            )
            cuts.append((here - length, here))
        else:
            length = int(rng.integers(8, 24))
            whole = fade(whole, length, "out")
            whole = np.concatenate([whole, fade(shot, length, "in")])
            cuts.append((here - length, here + length))
    return whole, cuts


def found(clips):
    """(last frame of one clip + 1, first of the next) of clips in order, as in `Planted.cuts`."""
    shots = [clip for clip in clips if clip["rejected"] not in ("short", "fade")]
    ends = [(clip["start"], clip["start"] + clip["frames"]) for clip in shots]
    return [(a[1], b[0]) for a, b in pairwise(ends)]


def f1(true, got, slack=2):
    """How well borders are found: one that overlaps a true one, up to `slack` frames, is right."""
    left, hits = list(got), 0
    for begin, end in true:
        match = [b for b in left if b[0] <= end + slack and b[1] >= begin - slack]
        if match:
            hits += 1
            left.remove(match[0])
    misses, false = len(true) - hits, len(left)
    return 2 * hits / max(1, 2 * hits + misses + false), misses, false


def corpus(folder, seed=0, each=6):
    """Scenes joined, and single ones: good, frozen, written on, spoilt, and copies."""
    rng = np.random.default_rng(seed)
    planted = Planted(folder)
    kinds = ("cut", "dissolve", "fade")
    for number in range(each):
        shots = [scene(rng, int(rng.integers(50, 90))) for _ in range(6)]
        frames, cuts = joined(rng, shots, [kinds[k] for k in rng.integers(0, 3, 5)])
        planted.write(f"joined{number}", frames)
        planted.cuts[f"joined{number}.mp4"] = cuts
    for number in range(each):
        good = scene(rng, 60)
        planted.write(f"a_good{number}", good)
        planted.write(f"frozen{number}", np.repeat(scene(rng, 1), 48, axis=0))
        planted.expected[f"frozen{number}.mp4"] = {"static"}
        planted.write(f"written{number}", written(scene(rng, 48)))
        planted.expected[f"written{number}.mp4"] = {
            "text",
            "static",
        }  # what is written hides what moves
        how = ("blurred", "noisy", "dark")[number % 3]
        planted.write(f"spoilt{number}", spoilt(scene(rng, 48), how, rng))
        planted.expected[f"spoilt{number}.mp4"] = {"fade"} if how == "dark" else {how}
        again = np.stack([cv2.resize(f, (320, 180)) for f in good])
        again = np.clip(again * 1.1 + 4, 0, 255).astype(np.uint8)
        planted.write(f"z_copy{number}", again[:-2])
        planted.expected[f"z_copy{number}.mp4"] = {"copy"}
    return planted
