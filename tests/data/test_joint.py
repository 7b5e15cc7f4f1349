"""Pictures beside videos: all of both are seen, in shapes that never change."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.joint import WithPictures
from vdm_jax.data.loader import Loader, stack
from vdm_jax.data.synthetic import MovingShapes

CLIPS = MovingShapes(num_frames=3, height=16, width=16, length=5)
STILLS = replace(CLIPS, num_frames=1, length=8, seed=1)


def test_a_sample_is_a_video_with_its_pictures():
    source = WithPictures(videos=CLIPS, pictures=STILLS, count=2).build()
    sample = source[1]
    np.testing.assert_array_equal(sample["video"], CLIPS[1]["video"])
    for i, n in enumerate((2, 3)):
        np.testing.assert_array_equal(sample["pictures"]["video"][i], STILLS[n]["video"])
        assert sample["pictures"]["caption"][i] == STILLS[n]["caption"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_epoch_sees_all_of_both(count):
    source = WithPictures(videos=CLIPS, pictures=STILLS, count=count).build()
    samples = [source[i] for i in range(len(source))]
    keys = {"video": Counter(), "picture": Counter()}
    for sample in samples:
        keys["video"][sample["video"].tobytes()] += 1
        keys["picture"].update(picture.tobytes() for picture in sample["pictures"]["video"])
    assert len(keys["video"]) == 5 and len(keys["picture"]) == 8
    for seen in keys.values():
        assert max(seen.values()) - min(seen.values()) <= 1
    with pytest.raises(IndexError):
        source[len(source)]


def test_batches_come_through_the_loader():
    source = WithPictures(videos=CLIPS, pictures=STILLS, count=2).build()
    batch = next(Loader(source, batch_size=4, seed=0))
    assert batch["video"].shape == (4, 3, 16, 16, 3)
    assert batch["pictures"]["video"].shape == (4, 2, 1, 16, 16, 3)
    assert np.shape(batch["pictures"]["caption"]) == (4, 2)


def test_what_decides_the_samples_decides_the_fingerprint():
    parts = WithPictures(videos=CLIPS, pictures=STILLS, count=2)
    others = [replace(parts, count=3), replace(parts, videos=replace(CLIPS, seed=9)),
              replace(parts, pictures=replace(STILLS, seed=9))]  # fmt: skip
    prints = {part.build().fingerprint for part in (parts, *others)}
    assert len(prints) == 4
    assert parts.build().fingerprint in prints


def test_pictures_of_another_size_are_refused():
    for wrong in (replace(STILLS, height=8, width=8, radius=(0.08, 0.1)), CLIPS):
        with pytest.raises(Refusal, match="must be 1x16x16x3"):
            WithPictures(videos=CLIPS, pictures=wrong).build()
    with pytest.raises(Refusal, match="count"):
        WithPictures(videos=CLIPS, pictures=STILLS, count=0)
    assert stack([CLIPS[0]])["video"].shape[0] == 1
