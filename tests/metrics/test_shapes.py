"""The oracle reads what is there, and does not read what is not."""

import io

import av
import numpy as np
import pytest

from vdm_jax.data.synthetic import SHAPES, MovingShapes
from vdm_jax.metrics.shapes import NOTHING, ShapeScores, copy_first_frame, read, score, table

COUNT = 100


@pytest.fixture(scope="module")
def truths():
    source = MovingShapes(split="test", shapes=tuple(SHAPES))
    return [source.truth(i) for i in range(COUNT)]


@pytest.fixture(scope="module")
def videos(truths):
    return np.stack([truth.video for truth in truths])


def same(videos):
    return videos


def noisy(videos):
    noise = np.random.default_rng(0).normal(0, 10, videos.shape)
    return np.clip(videos + noise, 0, 255).astype(np.uint8)


def blurred(videos):
    padded = np.pad(videos.astype(float), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :, :-2] / 4 + padded[:, :, 1:-1] / 2 + padded[:, :, 2:] / 4
    return (rows[..., :-2, :] / 4 + rows[..., 1:-1, :] / 2 + rows[..., 2:, :] / 4).astype(np.uint8)


def through_h264(videos):
    return np.stack([_h264(video) for video in videos])


def _h264(video):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=8, options={"crf": "20"})
        stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
        for frame in video:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    file.seek(0)
    with av.open(file) as back:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in back.decode(video=0)])


@pytest.mark.parametrize("damage", [same, noisy, blurred, through_h264])
def test_true_videos_are_read_right_even_when_damaged(videos, truths, damage):
    scores = score(damage(videos), truths)
    assert scores.videos == COUNT
    assert scores.direction >= 0.99 and scores.colour >= 0.99 and scores.shape >= 0.97
    assert scores.last_position_error < 0.005
    assert scores.first_frame_psnr > (99 if damage is same else 25)


def test_positions_are_read_to_a_tenth_of_a_pixel(videos, truths):
    true = np.stack([truth.positions[:, 0] for truth in truths])
    np.testing.assert_allclose(read(videos).positions, true, atol=0.15)


def test_small_frames_are_read_too():
    source = MovingShapes(height=16, width=16)
    truths = [source.truth(i) for i in range(COUNT)]
    scores = score(noisy(np.stack([truth.video for truth in truths])), truths)
    assert scores.direction >= 0.99 and scores.colour >= 0.99
    assert scores.last_position_error < 0.01


def test_shuffled_videos_score_near_chance(videos, truths):
    scores = score(np.roll(videos, 7, axis=0), truths)
    assert scores.direction < 0.3 and scores.colour < 0.3 and scores.shape < 0.5
    assert scores.last_position_error > 0.2 and scores.first_frame_psnr < 20


def test_copying_the_first_frame_gets_everything_right_but_the_motion(videos, truths):
    scores = score(copy_first_frame(videos), truths)
    assert scores.direction == 0.0 and scores.colour == 1.0 and scores.first_frame_psnr == 100.0
    assert 0.2 < scores.last_position_error < 0.4  # the speeds are 0.2 and 0.4 widths a clip


def test_reversed_videos_go_the_wrong_way(videos, truths):
    scores = score(videos[:, ::-1], truths)
    assert scores.direction == 0.0 and scores.colour == 1.0


def test_wrong_colours_are_noticed(videos, truths):
    assert score(videos[..., ::-1], truths).colour < 0.6  # green, white and purple survive BGR


@pytest.mark.parametrize("kind", ["black", "grey", "noise", "stripes", "two objects"])
def test_a_video_without_one_object_is_wrong_everywhere(videos, truths, kind):
    wrong = {
        "black": np.zeros_like(videos),
        "grey": np.full_like(videos, 90),
        "noise": np.random.default_rng(0).integers(0, 256, videos.shape).astype(np.uint8),
        "stripes": np.where(np.arange(32)[:, None] % 8 < 3, 255, 30)[..., None]
        * np.ones_like(videos),
        "two objects": np.maximum(_spot(6, 6), _spot(25, 25)) * np.ones_like(videos),
    }[kind].astype(np.uint8)
    scores = score(wrong, truths)
    assert (scores.direction, scores.colour, scores.shape) == (0.0, 0.0, 0.0)
    assert scores.last_position_error == 1.0
    assert (read(wrong).colour == NOTHING).all()


def _spot(x, y):
    return (np.hypot(np.arange(32) - x, np.arange(32)[:, None] - y) < 4)[..., None] * 200


def test_an_object_that_vanishes_at_the_end_is_out_of_place(videos, truths):
    cut_short = videos.copy()
    cut_short[:, -1] = cut_short[:, -1:, 0, 0][:, :, None]
    scores = score(cut_short, truths)
    assert scores.last_position_error == 1.0
    assert scores.direction >= 0.99 and scores.colour >= 0.99


def test_score_refuses_what_it_cannot_compare(videos, truths):
    with pytest.raises(ValueError, match="truths"):
        score(videos[:-1], truths)
    several = MovingShapes(num_objects=2).truth(0)
    with pytest.raises(ValueError, match="several"):
        score(several.video[None], [several])


def test_table_is_aligned_and_says_how_many(videos, truths):
    bars = ShapeScores(0.9, 0.95, float("nan"), 28.0, 0.1, COUNT)
    text = table({"model": score(noisy(videos), truths), "truth": score(videos, truths)}, bars)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["model", "truth", "bar"]
    assert len({len(line) for line in lines[:6]}) == 1
    assert ">= 95.0 %" in lines[4] and "<= 10.0 %" in lines[4] and "nan" not in text
    assert "exact" in lines[3] and f"{COUNT} captions" in lines[-1]
