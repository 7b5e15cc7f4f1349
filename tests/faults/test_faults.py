"""A small sample of each kind of fault; `python tests/faults/run.py` tries them all, many times."""

import os
import time
from pathlib import Path

import pytest
from faults import damage, disk, hangs, identity, kills, poison
from faults.lives import Run, wait_until
from faults.row import table

pytestmark = pytest.mark.long

CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"]
SEED = int(os.environ.get("VDM_SEED", "0"))
PHASES = (
    "save: arrays in flight",
    "commit: half a manifest",
    "commit: has its name",
    "cleanup: half deleted",
    "quarantine: moved",
)


def assert_held(row, tries):
    assert row.tries >= tries and row.held == row.tries, table([row])


def test_damaged_checkpoints_are_never_restored_silently_and_fall_back(tmp_path):
    outcomes = list(damage.tried(tmp_path, 80, SEED))
    wrong = [case for case, (what, _), _ in outcomes if what != "right"]
    stayed = [case for case, (_, fell_back), same in outcomes if not fell_back and not same]
    assert len(outcomes) == 80 and not wrong and not stayed


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_a_run_ends_bitwise_equal(tmp_path, processes):
    assert_held(kills.random_kills(tmp_path, CACHE, 3, processes, SEED), 3)


def test_killed_at_a_named_phase_a_run_loses_no_more_than_an_interval(tmp_path):
    assert_held(kills.phases(tmp_path, CACHE, PHASES), len(PHASES))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_to_any_process_saves_and_ends_all(tmp_path, processes):
    assert_held(kills.sigterms(tmp_path, CACHE, 2, processes, SEED), 2)


def test_a_signal_while_compiling_ends_a_run_within_ten_seconds(tmp_path):
    run = Run(tmp_path / "run", tmp_path / "empty cache")
    with run.start() as (process,):
        wait_until(lambda: "compiling" in run.said(), [process])
        process.terminate()
        asked = time.monotonic()
        assert process.wait(60) == 0
    assert time.monotonic() - asked < 10 and run.newest == 0


def test_bad_steps_leave_weights_finite_and_the_result_as_good(tmp_path):
    assert_held(poison.poisoned(tmp_path, CACHE, 6, SEED), 6)


def test_a_window_of_bad_data_is_gone_back_from_and_passed_over(tmp_path):
    assert_held(poison.windows(tmp_path, CACHE, 1, SEED), 1)


def test_a_process_that_stops_is_found_and_started_again(tmp_path):
    assert_held(hangs.hangs(tmp_path, CACHE, 1, SEED), 1)


def test_a_run_outlives_a_disk_that_is_full_or_read_only_for_a_while(tmp_path):
    if not disk.may_mount(Path(tmp_path)):
        pytest.skip("may not mount a small disk here")
    assert_held(disk.troubled(tmp_path, CACHE, 2, SEED), 2)


def test_other_data_is_refused_and_the_difference_named():
    for name, other in identity.LOADERS.items():
        assert identity.loader_refusal(name, other) is None
