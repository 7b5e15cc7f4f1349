"""Moving shapes: clips that are drawn, so that everything about them is known exactly.

A few flat shapes travel straight over a plain dark ground. The caption names colour, shape,
direction and speed, so caption and first frame together determine the whole clip: a model that
has learnt the task can be graded without a judge (metrics.shapes). Nothing is downloaded; clip i
is a pure function of (parameters, i) and costs a fraction of a millisecond to draw.

Coordinates: a position is (x, y) in pixels; the centre of the top left pixel is (0, 0), x grows
to the right, y downwards. Vocabulary of the captions: `VOCABULARY`.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from operator import index
from typing import Literal, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.effects import Effect, Timeline
from vdm_jax.data.paths import Path, Straight, pace

VERSION = "moving-shapes-1"  # part of the fingerprint: change it when the same i draws another clip

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 45, 45),
    "green": (50, 185, 70),
    "blue": (60, 95, 245),
    "yellow": (250, 225, 50),
    "purple": (175, 65, 225),
    "cyan": (60, 215, 225),
    "orange": (250, 140, 35),
    "white": (240, 240, 240),
}
DIRECTIONS: dict[str, tuple[float, float]] = {
    "right": (1.0, 0.0),
    "left": (-1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up right": (math.sqrt(0.5), -math.sqrt(0.5)),
    "up left": (-math.sqrt(0.5), -math.sqrt(0.5)),
    "down right": (math.sqrt(0.5), math.sqrt(0.5)),
    "down left": (-math.sqrt(0.5), math.sqrt(0.5)),
}
STRAIGHT = ("right", "left", "up", "down")
SPEEDS: dict[str, float] = {"slowly": 0.2, "quickly": 0.4}  # way from first to last frame / width


class Form(NamedTuple):
    """A shape by its signed distance, scaled so that radius r means the area of a disc of r.

    `distance(dx, dy, r)` is negative inside, in pixels, with (dx, dy) from the centroid;
    `reach` is the farthest it extends from the centroid along an axis, in radii.
    """

    distance: Callable[[np.ndarray, np.ndarray, float | np.ndarray], np.ndarray]
    reach: float


_SIDE = math.sqrt(math.pi) / 2  # half a side of the square of area pi
_INRADIUS = math.sqrt(math.pi / (3 * math.sqrt(3)))  # of the regular triangle of area pi
_ARM = math.sqrt(math.pi * 9 / 20)  # half length of the cross of area pi, arms a third as wide


def _triangle(dx: np.ndarray, dy: np.ndarray, r: float | np.ndarray) -> np.ndarray:
    sides = np.float32(math.sqrt(0.75)) * np.abs(dx) - np.float32(0.5) * dy
    return np.maximum(dy, sides) - np.float32(_INRADIUS * r)


def _cross(dx: np.ndarray, dy: np.ndarray, r: float | np.ndarray) -> np.ndarray:
    x, y, arm = np.abs(dx), np.abs(dy), np.float32(_ARM * r)
    return np.minimum(np.maximum(x - arm, y - arm / 3), np.maximum(x - arm / 3, y - arm))


SHAPES: dict[str, Form] = {
    "circle": Form(lambda dx, dy, r: np.sqrt(dx * dx + dy * dy) - np.float32(r), 1.0),
    "square": Form(
        lambda dx, dy, r: np.maximum(np.abs(dx), np.abs(dy)) - np.float32(_SIDE * r), _SIDE
    ),
    "triangle": Form(_triangle, 2 * _INRADIUS),
    "diamond": Form(
        lambda dx, dy, r: (np.abs(dx) + np.abs(dy)) * np.float32(0.5**0.5) - np.float32(_SIDE * r),
        _SIDE * math.sqrt(2),
    ),
    "cross": Form(_cross, _ARM),
}

VOCABULARY: tuple[str, ...] = (
    "a", "and", "moves", "up", "down", "left", "right", *SPEEDS, *COLOURS, *SHAPES,
)  # fmt: skip


class Thing(NamedTuple):
    """One moving object: what the caption says of it, its size, start and way (pixels a clip)."""

    colour: str
    shape: str
    direction: str
    speed: str
    radius: float
    start: Float32[np.ndarray, "2"]
    way: Float32[np.ndarray, "2"]

    @property
    def margin(self) -> float:
        """Least distance of its centre from a wall."""
        return SHAPES[self.shape].reach * self.radius


class Scene(NamedTuple):
    """One shot: things from back to front over a ground of one grey (0 to 255)."""

    things: tuple[Thing, ...]
    ground: float


@dataclass(frozen=True)
class Truth:
    """Everything known about one clip (n objects, back to front).

    flow: where each pixel of frame i goes in frame i + 1, (dx, dy) pixels; zero across a cut.
    occlusion: pixels of frame i that cannot be seen in frame i + 1 (all of them across a cut).
    masks: pixels where object n is in front and covers at least half. positions: centroids (x, y).
    colour, shape, direction, speed: indices into COLOURS, SHAPES, DIRECTIONS, SPEEDS, first shot.
    label: one number for (colour, shape, direction, speed) of the first object. shot: counts cuts.
    effects: what the painting effects did ("text", "scratches", "gain").
    """

    video: UInt8[np.ndarray, "t h w 3"]
    caption: str
    flow: Float32[np.ndarray, "t-1 h w 2"]
    occlusion: Bool[np.ndarray, "t-1 h w"]
    masks: Bool[np.ndarray, "t n h w"]
    positions: Float32[np.ndarray, "t n 2"]
    colour: Int[np.ndarray, " n"]
    shape: Int[np.ndarray, " n"]
    direction: Int[np.ndarray, " n"]
    speed: Int[np.ndarray, " n"]
    label: int
    shot: Int[np.ndarray, " t"]
    effects: dict[str, np.ndarray]


def _subset(field: str, got: tuple[str, ...], allowed: dict) -> None:
    unknown = [name for name in got if name not in allowed]
    if unknown or not got or len(set(got)) != len(got):
        raise Refusal(f"{field}={got!r}: choose one or more of {', '.join(allowed)}, each once")


@dataclass(frozen=True, kw_only=True)
class MovingShapes:
    """A source of `length` clips; equal parameters give equal clips, anywhere, in any order.

    The test split shows only (colour, shape, direction) combinations that the train split never
    shows, about a sixth of all, though train shows each colour, shape and direction: every test
    caption is unseen. `radius` is a range as a fraction of the shorter side, `ground` a range of
    greys (0 to 255); shapes stay inside the frame. Later objects pass in front of earlier ones.
    """

    num_frames: int = 8
    height: int = 32
    width: int = 32
    seed: int = 0
    split: Literal["train", "test"] = "train"
    length: int = 100_000
    fps: float = 8.0
    num_objects: int = 1
    colours: tuple[str, ...] = tuple(COLOURS)
    shapes: tuple[str, ...] = ("circle", "square", "triangle")
    directions: tuple[str, ...] = tuple(DIRECTIONS)
    speeds: tuple[str, ...] = tuple(SPEEDS)
    radius: tuple[float, float] = (0.11, 0.17)
    ground: tuple[float, float] = (24.0, 56.0)
    path: Path = Straight()
    effects: tuple[Effect, ...] = ()

    def __post_init__(self) -> None:
        _subset("colours", self.colours, COLOURS)
        _subset("shapes", self.shapes, SHAPES)
        _subset("directions", self.directions, DIRECTIONS)
        _subset("speeds", self.speeds, SPEEDS)
        if min(self.num_frames, self.num_objects, self.length) < 1:
            raise Refusal("num_frames, num_objects and length must be at least 1")
        side = min(self.height, self.width)
        across = 2 * side * self.radius[1] * max(SHAPES[s].reach for s in self.shapes)
        fastest = self.path.fastest({name: SPEEDS[name] for name in self.speeds})
        need = across + self.width * fastest + 1
        if need > side:
            raise Refusal(
                f"height={self.height}, width={self.width}, radius={self.radius}: the largest shape"
                f" and its way take {math.ceil(need)} pixels of {side}; use a squarer frame or a"
                " smaller radius"
            )
        if not self._combinations:
            raise Refusal(f"the {self.split} split is empty: allow more colours or directions")
        self._direct(0)  # effects refuse what does not fit the clip

    def build(self) -> "MovingShapes":
        """Itself: nothing has to be opened."""
        return self

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: SupportsIndex) -> dict:
        """video uint8 "t h w 3", caption, fps, key, label (see Truth)."""
        i = index(i)
        scenes, timeline = self._direct(i)
        return {
            "video": self._paint(i, self._draw(scenes, timeline))[0],
            "caption": self._caption(scenes[0]),
            "fps": np.float32(self.fps),
            "key": f"{self.split}-{self.seed}-{i:08d}",
            "label": np.int32(self._label(scenes[0].things[0])),
        }

    @cached_property
    def fingerprint(self) -> str:
        """A hash of version and parameters; two sources with the same one hold the same clips."""
        return hashlib.sha256(f"{VERSION} {self!r}".encode()).hexdigest()[:16]

    @property
    def num_labels(self) -> int:
        return math.prod(map(len, (self.colours, self.shapes, self.directions, self.speeds)))

    def truth(self, i: int) -> Truth:
        """The clip with everything known about it; costs more than the clip alone."""
        scenes, timeline = self._direct(i)
        video, effects = self._paint(i, self._draw(scenes, timeline))
        first = scenes[0].things
        positions = np.stack(
            [
                self._positions(scenes[shot], time[None])[:, 0]
                for shot, time in zip(timeline.shot, timeline.time, strict=True)
            ]
        )
        masks = np.concatenate(
            [self._masks(scenes[s], positions[i : i + 1]) for i, s in enumerate(timeline.shot)]
        )
        flow, occlusion = self._motion(scenes, timeline, positions, masks)
        return Truth(
            video=video,
            caption=self._caption(scenes[0]),
            flow=flow,
            occlusion=occlusion,
            masks=masks,
            positions=positions,
            colour=np.array([list(COLOURS).index(thing.colour) for thing in first]),
            shape=np.array([list(SHAPES).index(thing.shape) for thing in first]),
            direction=np.array([list(DIRECTIONS).index(thing.direction) for thing in first]),
            speed=np.array([list(SPEEDS).index(thing.speed) for thing in first]),
            label=self._label(first[0]),
            shot=timeline.shot,
            effects=effects,
        )

    # What happens: drawn from uniform numbers of a counter seeded by (seed, split, i, what).

    @cached_property
    def _combinations(self) -> list[tuple[str, str, str]]:
        """The split's (colour, shape, direction)s: test has those whose indices sum to 0 mod 6."""
        held_out = self.split == "test"
        triples = product(*map(enumerate, (self.colours, self.shapes, self.directions)))
        return [
            (c[1], s[1], d[1]) for c, s, d in triples if ((c[0] + s[0] + d[0]) % 6 == 0) == held_out
        ]

    def _rng(self, i: int, *what: int) -> np.random.Generator:
        split = {"train": 0, "test": 1}[self.split]
        return np.random.Generator(np.random.PCG64([self.seed, split, i, *what]))

    def _direct(self, i: int) -> tuple[list[Scene], Timeline]:
        if not 0 <= i < self.length:
            raise IndexError(f"clip {i} of {self.length}")
        t = self.num_frames
        timeline = Timeline(np.zeros(t, int), np.arange(t), np.zeros(t, np.float32))
        for effect in self.effects:
            timeline = effect.retime(timeline)
        shots = int(timeline.shot.max()) + 1
        return [self._scene(self._rng(i, 0, shot)) for shot in range(shots)], timeline

    def _scene(self, rng: np.random.Generator) -> Scene:
        ground, *_ = rng.random(1)
        low, high = self.ground
        things = tuple(self._thing(*rng.random(5).tolist()) for _ in range(self.num_objects))
        return Scene(things, low + (high - low) * ground)

    def _thing(self, what: float, hurry: float, size: float, x: float, y: float) -> Thing:
        colour, shape, direction = self._combinations[int(what * len(self._combinations))]
        number, rest = pace(hurry, len(self.speeds))
        speed, (low, high) = self.speeds[number], self.radius
        radius = min(self.height, self.width) * (low + (high - low) * size)
        margin = SHAPES[shape].reach * radius  # half a pixel stays clear of the frame's edge
        place: list[float] = []
        far = self.path.speed(SPEEDS[speed], rest) * self.width
        way = [far * part for part in DIRECTIONS[direction]]
        for u, step, end in ((x, way[0], self.width - 1), (y, way[1], self.height - 1)):
            first, last = self.path.room(step, margin, end - margin)
            place.append(first + u * (last - first))
        start, path = np.array(place, np.float32), np.array(way, np.float32)
        return Thing(colour, shape, direction, speed, radius, start, path)

    def _caption(self, scene: Scene) -> str:
        return " and ".join(
            f"a {thing.colour} {thing.shape} {self.path.words(thing.direction, thing.speed)}"
            for thing in scene.things
        )

    def _label(self, thing: Thing) -> int:
        label = self.colours.index(thing.colour)
        label = label * len(self.shapes) + self.shapes.index(thing.shape)
        label = label * len(self.directions) + self.directions.index(thing.direction)
        return label * len(self.speeds) + self.speeds.index(thing.speed)

    # How it looks.

    def _positions(self, scene: Scene, time: Int[np.ndarray, " t"]) -> Float32[np.ndarray, "n t 2"]:
        part = (time / max(1, self.num_frames - 1)).astype(np.float32)[:, None]
        ends = np.array([self.width - 1, self.height - 1], np.float32)
        margins = (np.float32(thing.margin) for thing in scene.things)
        return np.stack(
            [
                self.path.at(thing.start, part * thing.way, m + 0 * ends, ends - m)
                for thing, m in zip(scene.things, margins, strict=True)
            ]
        )

    def _distance(
        self, thing: Thing, at: Float32[np.ndarray, "t 2"]
    ) -> Float32[np.ndarray, "t h w"]:
        dx = np.arange(self.width, dtype=np.float32) - at[:, 0, None, None]
        dy = np.arange(self.height, dtype=np.float32)[:, None] - at[:, 1, None, None]
        return SHAPES[thing.shape].distance(dx, dy, thing.radius)

    def _draw(self, scenes: list[Scene], timeline: Timeline) -> UInt8[np.ndarray, "t h w 3"]:
        """Paint back to front; a pixel on an edge is mixed by the part of it that is covered."""
        out = np.empty((self.num_frames, self.height, self.width, 3), np.uint8)
        for shot, scene in enumerate(scenes):
            frames = timeline.shot == shot
            positions = self._positions(scene, timeline.time[frames])
            grounds = (timeline.shade[frames] + np.float32(scene.ground))[:, None, None]
            planes = [grounds, grounds, grounds]
            for thing, at in zip(scene.things, positions, strict=True):
                cover = np.clip(np.float32(0.5) - self._distance(thing, at), 0, 1)
                colour = np.array(COLOURS[thing.colour], np.float32)
                planes = [p + cover * (c - p) for p, c in zip(planes, colour, strict=True)]
            for channel, plane in enumerate(planes):
                out[frames, ..., channel] = plane + np.float32(0.5)
        return out

    def _paint(
        self, i: int, frames: UInt8[np.ndarray, "t h w 3"]
    ) -> tuple[UInt8[np.ndarray, "t h w 3"], dict[str, np.ndarray]]:
        truth: dict[str, np.ndarray] = {}
        for order, effect in enumerate(self.effects):
            frames, more = effect.paint(frames, self._rng(i, 1, order))
            truth |= more
        return frames, truth

    # What is true of it.

    def _masks(
        self, scene: Scene, positions: Float32[np.ndarray, "1 n 2"]
    ) -> Bool[np.ndarray, "1 n h w"]:
        inside = np.stack(
            [self._distance(thing, positions[:, n]) <= 0 for n, thing in enumerate(scene.things)],
            axis=1,
        )
        front = np.cumsum(inside[:, ::-1], axis=1)[:, ::-1] - inside == 0
        return inside & front

    def _motion(
        self,
        scenes: list[Scene],
        timeline: Timeline,
        positions: Float32[np.ndarray, "t n 2"],
        masks: Bool[np.ndarray, "t n h w"],
    ) -> tuple[Float32[np.ndarray, "t-1 h w 2"], Bool[np.ndarray, "t-1 h w"]]:
        """Each visible point follows its object; it is hidden if something nearer covers it."""
        ys, xs = np.mgrid[: self.height, : self.width].astype(np.float32)
        flow = np.zeros((self.num_frames - 1, self.height, self.width, 2), np.float32)
        hidden = np.zeros(flow.shape[:3], bool)
        for k, shot in enumerate(timeline.shot[:-1]):
            if timeline.shot[k + 1] != shot:
                hidden[k] = True
                continue
            for n, mask in enumerate(masks[k]):
                flow[k][mask] = positions[k + 1, n] - positions[k, n]
            layer = (masks[k] * np.arange(1, len(masks[k]) + 1)[:, None, None]).sum(0)
            x, y = xs + flow[k, ..., 0], ys + flow[k, ..., 1]
            for n, thing in enumerate(scenes[shot].things):
                dx, dy = x - positions[k + 1, n, 0], y - positions[k + 1, n, 1]
                covers = SHAPES[thing.shape].distance(dx, dy, thing.radius) <= 0
                hidden[k] |= covers & (layer <= n)
        return flow, hidden
