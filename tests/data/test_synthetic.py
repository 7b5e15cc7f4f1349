"""Moving shapes: the drawn clips and everything claimed to be true of them."""

import time

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.effects import Cut, Flicker, Freeze, OverlaidText, Scratches
from vdm_jax.data.synthetic import (
    COLOURS,
    DIRECTIONS,
    SHAPES,
    SPEEDS,
    STRAIGHT,
    VOCABULARY,
    MovingShapes,
)


def words_of(caption):
    """(colour, shape, direction, speed) of a one-object caption."""
    _, colour, shape, _, *direction, speed = caption.split()
    return colour, shape, " ".join(direction), speed


def test_equal_parameters_give_equal_clips_in_any_order():
    one, two = MovingShapes(seed=3), MovingShapes(seed=3)
    forwards = [one[i] for i in range(20)]
    backwards = [two[i] for i in reversed(range(20))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert a["caption"] == b["caption"] and a["key"] == b["key"]
        np.testing.assert_array_equal(a["video"], b["video"])
    assert one.fingerprint == two.fingerprint
    assert len({s["video"].tobytes() for s in forwards}) == 20


def test_every_parameter_changes_the_fingerprint():
    variants = [
        MovingShapes(),
        MovingShapes(seed=1),
        MovingShapes(split="test"),
        MovingShapes(directions=STRAIGHT),
        MovingShapes(effects=(Flicker(),)),
        MovingShapes(effects=(Flicker(0.2),)),
        MovingShapes(length=50),
    ]
    assert len({v.fingerprint for v in variants}) == len(variants)


def test_samples_keep_the_contract():
    source = MovingShapes(num_frames=5, height=26, width=28)
    sample = source[np.int64(7)]
    assert sample["video"].shape == (5, 26, 28, 3) and sample["video"].dtype == np.uint8
    assert sample["fps"] == np.float32(8.0) and sample["fps"].dtype == np.float32
    assert len({source[i]["key"] for i in range(100)}) == 100
    assert len(source) == 100_000
    with pytest.raises(IndexError):
        source[len(source)]


def test_the_first_clip_never_changes():
    """Shards and results made earlier must stay true: pins VERSION to what is drawn."""
    sample = MovingShapes()[0]
    assert sample["caption"] == "a blue square moves up quickly"
    assert int(sample["video"].sum()) == 1412605


@pytest.mark.parametrize("directions", [tuple(DIRECTIONS), STRAIGHT])
def test_test_combinations_are_unseen_but_their_parts_are_known(directions):
    train = MovingShapes(directions=directions)
    test = MovingShapes(directions=directions, split="test")
    seen = {words_of(train[i]["caption"])[:3] for i in range(3000)}
    held_out = {words_of(test[i]["caption"])[:3] for i in range(1000)}
    assert not seen & held_out
    assert 0.14 < len(held_out) / len(seen | held_out) < 0.21
    assert len(seen | held_out) == 8 * 3 * len(directions)
    for split in (seen, held_out):
        colours, shapes, ways = (set(names) for names in zip(*split, strict=True))
        assert colours == set(train.colours) and shapes == set(train.shapes)
        assert ways == set(directions)


def test_captions_say_what_is_true():
    source = MovingShapes()
    labels = {}
    for i in range(200):
        truth, sample = source.truth(i), source[i]
        colour, shape, direction, speed = words_of(truth.caption)
        assert sample["caption"] == truth.caption
        assert set(truth.caption.split()) <= set(VOCABULARY)
        assert colour == list(COLOURS)[truth.colour[0]]
        assert shape == list(SHAPES)[truth.shape[0]]
        assert direction == list(DIRECTIONS)[truth.direction[0]]
        assert speed == list(SPEEDS)[truth.speed[0]]
        way = truth.positions[-1, 0] - truth.positions[0, 0]
        np.testing.assert_allclose(
            way, SPEEDS[speed] * 32 * np.array(DIRECTIONS[direction]), atol=1e-4
        )
        x, y = np.round(truth.positions[3, 0]).astype(int)
        np.testing.assert_array_equal(truth.video[3, y, x], COLOURS[colour])
        assert truth.label == sample["label"] < source.num_labels
        assert labels.setdefault(truth.label, truth.caption) == truth.caption


@pytest.mark.parametrize("shape", list(SHAPES))
def test_positions_are_the_centroids_of_what_is_drawn(shape):
    source = MovingShapes(shapes=(shape,), radius=(0.12, 0.14), colours=("white", "red", "blue"))
    ys, xs = np.mgrid[:32, :32]
    for i in range(20):
        truth = source.truth(i)
        grey = truth.video[..., 0].astype(float)
        cover = (grey - grey[0, 0, 0]) / (COLOURS[words_of(truth.caption)[0]][0] - grey[0, 0, 0])
        weight = cover.sum((1, 2))
        found = np.stack([(cover * xs).sum((1, 2)), (cover * ys).sum((1, 2))], -1) / weight[:, None]
        np.testing.assert_allclose(found, truth.positions[:, 0], atol=0.15)
        radius = np.sqrt(weight / np.pi)
        assert np.all((radius > 0.115 * 32) & (radius < 0.145 * 32))
        edge = np.concatenate([cover[:, 0], cover[:, -1], cover[:, :, 0], cover[:, :, -1]])
        assert np.all(edge < 0.51), "the shape leaves the frame"


def test_flow_carries_each_visible_pixel_to_the_next_frame():
    """With whole-pixel motion warping is a lookup, so flow and occlusion are held to equality."""
    source = MovingShapes(
        num_frames=5, width=40, height=40, num_objects=3, directions=STRAIGHT, shapes=("circle",)
    )
    hidden_by_objects = 0
    for i in range(30):
        truth = source.truth(i)
        ys, xs = np.mgrid[:40, :40]
        for k in range(4):
            x = xs + np.round(truth.flow[k, ..., 0]).astype(int)
            y = ys + np.round(truth.flow[k, ..., 1]).astype(int)
            np.testing.assert_allclose(truth.flow[k], np.round(truth.flow[k]), atol=1e-4)
            front = truth.masks[k].any(0)
            owner = np.where(front, truth.masks[k].argmax(0), -1)
            after = np.where(truth.masks[k + 1].any(0), truth.masks[k + 1].argmax(0), -1)
            # a point stays visible exactly if the same layer is in front where it arrives
            same = after[y, x] == owner
            np.testing.assert_array_equal(~truth.occlusion[k], same)
            hidden_by_objects += int((truth.occlusion[k] & front).sum())
            seen = same & pure(truth.video[k]) & pure(truth.video[k + 1])[y, x]
            np.testing.assert_array_equal(truth.video[k + 1][y, x][seen], truth.video[k][seen])
    assert hidden_by_objects > 100


def pure(frame):
    """Pixels in a flat neighbourhood: none of them is mixed at an edge."""
    padded = np.pad(frame.astype(int), ((1, 1), (1, 1), (0, 0)), mode="edge")
    shifts = [padded[a : a + 40, b : b + 40] for a in range(3) for b in range(3)]
    return np.max([np.abs(s - frame).max(-1) for s in shifts], axis=0) == 0


def test_flow_is_exact_between_pixels():
    truth = MovingShapes(directions=("down left", "right")).truth(1)
    for k in range(7):
        expected = truth.positions[k + 1, 0] - truth.positions[k, 0]
        assert np.all(truth.flow[k][truth.masks[k, 0]] == expected)
        assert np.all(truth.flow[k][~truth.masks[k, 0]] == 0)
    assert not np.array_equal(truth.flow[0], np.round(truth.flow[0]))


def test_nearer_objects_cover_farther_ones():
    source = MovingShapes(num_objects=2, radius=(0.16, 0.17))
    overlaps = 0
    for i in range(40):
        truth = source.truth(i)
        assert not (truth.masks[:, 0] & truth.masks[:, 1]).any()
        x, y = np.round(truth.positions[0, 1]).astype(int)
        assert truth.masks[0, 1, y, x]
        area = truth.masks.sum((2, 3))
        overlaps += int((area[:, 0] < 0.7 * area[:, 0].max()).any())
        first, second = truth.caption.split(" and ")
        assert words_of(first)[0] == list(COLOURS)[truth.colour[0]]
        assert words_of(second)[0] == list(COLOURS)[truth.colour[1]]
    assert overlaps > 2


def test_cut():
    plain, cut = MovingShapes().truth(4), MovingShapes(effects=(Cut(at=5),)).truth(4)
    np.testing.assert_array_equal(cut.video[:5], plain.video[:5])
    steps = np.abs(np.diff(cut.video.astype(float), axis=0)).mean((1, 2, 3))
    assert steps.argmax() == 4 and steps[4] > 4 * np.delete(steps, 4).max()
    np.testing.assert_array_equal(cut.shot, [0] * 5 + [1] * 3)
    assert cut.occlusion[4].all() and not cut.flow[4].any()
    assert not cut.occlusion[5].all() and cut.flow[5].any()
    assert cut.caption == plain.caption


def test_freeze():
    plain = MovingShapes().truth(4)
    still = MovingShapes(effects=(Freeze(at=2, length=3),)).truth(4)
    steps = np.abs(np.diff(still.video.astype(float), axis=0)).sum((1, 2, 3))
    np.testing.assert_array_equal(steps == 0, [False, False, True, True, True, False, False])
    np.testing.assert_array_equal(still.video[6:], plain.video[6:])
    assert not still.flow[2:5].any() and not still.occlusion[2:5].any()
    np.testing.assert_allclose(
        still.flow[5][still.masks[5, 0]].max(0),
        4 * plain.flow[0][plain.masks[0, 0]].max(0),
        atol=1e-4,
    )


@pytest.mark.parametrize(("effect", "name"), [(OverlaidText(), "text"), (Scratches(), "scratches")])
def test_painted_pixels_are_the_mask(effect, name):
    for i in range(5):
        plain, painted = MovingShapes().truth(i), MovingShapes(effects=(effect,)).truth(i)
        mask = painted.effects[name]
        changed = (plain.video != painted.video).any(-1)
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.9 and 0.005 < mask.mean() < 0.4
    moving = np.abs(np.diff(mask.astype(int), axis=0)).any()
    assert moving == (name == "scratches")


def test_flicker_multiplies_by_its_gain():
    plain, bright = MovingShapes().truth(1), MovingShapes(effects=(Flicker(0.3),)).truth(1)
    gain = bright.effects["gain"]
    assert 0.7 <= gain.min() < 0.95 and 1.05 < gain.max() <= 1.3
    measured = bright.video[:, 0, 0, 0] / plain.video[:, 0, 0, 0].astype(float)
    np.testing.assert_allclose(measured, gain, atol=0.03)


def test_effects_compose():
    both = MovingShapes(effects=(Cut(at=3), Freeze(at=4, length=2), Scratches(), Flicker()))
    truth = both.truth(0)
    assert set(truth.effects) == {"scratches", "gain"}
    np.testing.assert_array_equal(truth.shot, [0, 0, 0, 1, 1, 1, 1, 1])
    assert not truth.flow[4:6].any() and truth.flow[6].any()
    np.testing.assert_array_equal(both[0]["video"], truth.video)


@pytest.mark.parametrize(
    "wrong",
    [
        {"colours": ("red", "mauve")},
        {"shapes": ()},
        {"directions": ("sideways",)},
        {"speeds": ("slowly", "slowly")},
        {"radius": (0.2, 0.4)},
        {"height": 16, "width": 64},
        {"num_objects": 0},
        {"effects": (Cut(at=8),)},
        {"effects": (Freeze(at=6, length=5),)},
        {"split": "test", "colours": ("green",), "shapes": ("square",), "directions": ("up",)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_parameters_are_refused(wrong):
    if "split" in wrong:
        wrong = wrong | {"split": "train", "colours": ("red",), "shapes": ("circle",)}
        wrong = wrong | {"directions": ("right",)}
    with pytest.raises(Refusal) as caught:
        MovingShapes(**wrong)
    assert "\n" not in str(caught.value)


def test_one_frame_is_an_image():
    assert MovingShapes(num_frames=1)[0]["video"].shape == (1, 32, 32, 3)


def test_drawing_is_fast():
    """An order of magnitude to spare: drawing must never be what training waits for."""
    source = MovingShapes()
    best = np.inf
    for i in range(30):
        start = time.process_time()
        source[i]
        best = min(best, time.process_time() - start)
    assert best < 5e-3
