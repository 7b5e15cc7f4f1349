"""The stream depends on (source, seed, position) only: not on restarts, processes or threads."""

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import Loader, Reading, Sample, Source, stack


@dataclass(frozen=True)
class Numbers:
    """Record i is a tiny video filled with i."""

    length: int = 37
    name: str = "numbers"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.name} {self.length}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {
            "video": np.full((2, 4, 4, 3), index, np.uint8),
            "caption": f"number {index}",
            "fps": np.float32(8),
            "key": str(index),
        }


@dataclass(frozen=True)
class Jitter:
    fingerprint: str = "jitter-1"

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return sample | {"noise": rng.standard_normal(3)}


def keys(loader: Loader, batches: int) -> list[str]:
    return [key for batch in itertools.islice(loader, batches) for key in batch["key"]]


def test_numbers_is_a_source():
    assert isinstance(Numbers(), Source)


def test_batch_has_stacked_arrays_and_lists_of_strings():
    batch = next(Loader(Numbers(), batch_size=4, seed=0))
    assert batch["video"].shape == (4, 2, 4, 4, 3) and batch["video"].dtype == np.uint8
    assert batch["fps"].shape == (4,) and batch["fps"].dtype == np.float32
    assert batch["caption"] == [f"number {key}" for key in batch["key"]]
    assert [str(v) for v in batch["video"][:, 0, 0, 0, 0]] == batch["key"]


def test_every_record_once_per_epoch_and_epochs_differ():
    stream = keys(Loader(Numbers(), batch_size=1, seed=3), 3 * 37)
    epochs = [stream[:37], stream[37:74], stream[74:]]
    for epoch in epochs:
        assert sorted(map(int, epoch)) == list(range(37))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != [str(i) for i in range(37)]


def test_another_seed_is_another_order_and_not_a_shifted_one():
    first = keys(Loader(Numbers(), batch_size=37, seed=0), 3)
    second = keys(Loader(Numbers(), batch_size=37, seed=1), 3)
    epochs = {tuple(order[i : i + 37]) for order in (first, second) for i in (0, 37, 74)}
    assert len(epochs) == 6


def test_the_order_is_pinned():
    """A change here breaks resuming of saved runs: raise ORDER_VERSION with it."""
    assert keys(Loader(Numbers(), batch_size=6, seed=7), 1) == ["3", "8", "36", "22", "16", "4"]


@pytest.mark.parametrize("consumed", [0, 1, 5, 11])
def test_resume_equals_uninterrupted(consumed: int):
    def fresh() -> Loader:
        return Loader(Numbers(), batch_size=8, seed=1, transform=Jitter())

    straight = list(itertools.islice(fresh(), consumed + 6))
    interrupted = fresh()
    for _ in range(consumed):
        next(interrupted)
    state = interrupted.state()
    assert state["position"] == 8 * consumed

    resumed = fresh()
    next(resumed)  # a loader already under way can be restored too
    resumed.restore(state)
    for expected in straight[consumed:]:
        got = next(resumed)
        assert got["key"] == expected["key"]
        np.testing.assert_array_equal(got["noise"], expected["noise"])
    assert resumed.position == 8 * (consumed + 6)


@pytest.mark.parametrize("count", [2, 4])
def test_global_batches_do_not_depend_on_the_process_count(count: int):
    alone = Loader(Numbers(), batch_size=8, seed=5, transform=Jitter())
    parts = [
        Loader(
            Numbers(),
            batch_size=8,
            seed=5,
            transform=Jitter(),
            rows=range(p * 8 // count, (p + 1) * 8 // count),
        )
        for p in range(count)
    ]
    for _ in range(12):
        whole, pieces = next(alone), [next(part) for part in parts]
        assert whole["key"] == [key for piece in pieces for key in piece["key"]]
        np.testing.assert_array_equal(whole["noise"], np.concatenate([p["noise"] for p in pieces]))
    # and a position saved by one process count continues on another
    parts[0].restore(alone.state())
    assert next(parts[0])["key"] == next(alone)["key"][: 8 // count]


def test_rows_that_lie_apart_are_delivered_in_their_order():
    """As where the devices of a process are not neighbours in the mesh."""
    alone, part = (Loader(Numbers(), batch_size=6, seed=3, rows=r) for r in (None, (0, 3, 4)))
    for _ in range(5):
        whole = next(alone)["key"]
        assert next(part)["key"] == [whole[row] for row in (0, 3, 4)]


@pytest.mark.parametrize("reading", [Reading(threads=0), Reading(threads=3, batches_ahead=0)])
def test_reading_changes_nothing(reading: Reading):
    expected = keys(Loader(Numbers(), batch_size=5, seed=2), 9)
    assert keys(Loader(Numbers(), batch_size=5, seed=2, reading=reading), 9) == expected


def test_transform_depends_on_seed_and_position():
    def noise(seed: int) -> np.ndarray:
        loader = Loader(Numbers(2), batch_size=2, seed=seed, transform=Jitter())
        return np.concatenate([next(loader)["noise"] for _ in range(4)])

    one = noise(1)
    np.testing.assert_array_equal(one, noise(1))
    assert len(np.unique(np.concatenate([one, noise(2)]), axis=0)) == 16


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Loader(Numbers(36), batch_size=4, seed=0), "length was 37, now 36"),
        (Loader(Numbers(name="others"), batch_size=4, seed=0), "source has changed"),
        (Loader(Numbers(), batch_size=8, seed=0), "batch_size was 4, now 8"),
        (Loader(Numbers(), batch_size=4, seed=1), "seed was 0, now 1"),
        (
            Loader(Numbers(), batch_size=4, seed=0, transform=Jitter()),
            "transform was 'none', now 'jitter-1'",
        ),
    ],
)
def test_a_position_of_other_data_is_refused_by_name(other: Loader, named: str):
    state = Loader(Numbers(), batch_size=4, seed=0).state()
    with pytest.raises(Refusal, match=named) as refusal:
        other.restore(state)
    unnamed = {"seed", "batch_size", "transform", "order"} - {named.split()[0]}
    assert not any(f"{name} " in str(refusal.value) for name in unnamed)
    assert other.position == 0


@pytest.mark.parametrize(
    "state", [{}, {"position": -1, "fingerprint": "{}"}, {"position": 0, "fingerprint": "x"}]
)
def test_a_damaged_state_is_refused(state: dict):
    with pytest.raises(Refusal, match="data position"):
        Loader(Numbers(), batch_size=4, seed=0).restore(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 4, "seed": -1}, "seed must be"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str):
    with pytest.raises(Refusal, match=message):
        Loader(Numbers(), **({"seed": 0} | settings))


def test_an_empty_source_is_refused():
    with pytest.raises(Refusal, match="no samples"):
        Loader(Numbers(0), batch_size=1, seed=0)


@dataclass(frozen=True)
class Broken(Numbers):
    def __getitem__(self, index: int) -> Sample:
        if index == 5:
            raise Refusal("record 5 is damaged")
        return super().__getitem__(index)


def test_a_bad_record_stops_the_stream_and_is_named():
    loader = Loader(Broken(), batch_size=1, seed=0)
    good = 0
    with pytest.raises(Refusal, match="record 5 is damaged"):
        for _ in range(37):
            next(loader)
            good += 1
    assert loader.position == good
    with pytest.raises(Refusal, match="record 5 is damaged"):
        next(loader)


def test_stack_names_what_does_not_fit():
    with pytest.raises(Refusal, match=r"video has \[\(1, 2\), \(2, 2\)\]"):
        stack([{"video": np.zeros((1, 2))}, {"video": np.zeros((2, 2))}])
    with pytest.raises(Refusal, match=r"\['mask'\]"):
        stack([{"fps": 1.0}, {"fps": 1.0, "mask": 2}])
    nested = stack([{"truth": {"flow": np.ones(2)}}, {"truth": {"flow": np.zeros(2)}}])
    assert nested["truth"]["flow"].shape == (2, 2)


@pytest.mark.parametrize("name", ["threads", "batches_ahead", "workers"])
def test_reading_below_nothing_is_refused(name: str):
    with pytest.raises(Refusal, match=f"{name} must be at least 0, got -1"):
        Reading(**{name: -1})
