"""Every second of a run belongs to one thing, and speed is told against the device's peak."""

from dataclasses import replace

import pytest

from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.train import log
from vdm_jax.train.loop import train
from vdm_jax.train.measure import Meter, Profile, told


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


class Result:
    """Something that a device works on until it is told to be ready."""

    ready = False

    def is_ready(self):
        return self.ready


def test_seconds_are_sorted_and_each_report_tells_the_new_ones(clock):
    meter = Meter(clock=clock, wall=clock)
    with meter.pausing():
        clock.now += 40.0
    for _ in range(4):
        with meter.fetching(None):
            clock.now += 1.0
        clock.now += 3.0
    with meter.saving():
        clock.now += 2.0
    told_first = meter.report(4)
    assert told_first["data_seconds"] == pytest.approx(1.0)
    assert told_first["compute_seconds"] == pytest.approx(3.0)
    assert told_first["save_seconds"] == pytest.approx(0.5)
    assert told_first["goodput"] == pytest.approx(12 / 58)
    clock.now += 5.0
    again = meter.report(5)
    assert again["data_seconds"] == again["save_seconds"] == 0
    assert again["compute_seconds"] == pytest.approx(1.0)


def test_data_that_comes_while_devices_work_is_not_waited_for(clock):
    pending = Result()
    meter = Meter(clock=clock, wall=clock)
    with meter.fetching({"loss": pending}):
        clock.now += 2.0
    pending.ready = True
    with meter.fetching({"loss": pending}):
        clock.now += 1.0
    values = meter.report(1)
    assert values["data_seconds"] == pytest.approx(1.0)
    assert values["compute_seconds"] == pytest.approx(2.0)


def test_goodput_counts_on_over_restarts_and_steps_that_were_lost_are_no_good(clock):
    """30 s of steps in 50 s are kept; a restart 100 s later takes 50 s of steps at once."""
    records = [
        {"step": 1, "loss": 0.5, "time": 40.0, "run_seconds": 30.0, "step_seconds": 10.0},
        {"step": 3, "loss": 0.5, "time": 60.0, "run_seconds": 50.0, "step_seconds": 30.0},
        {"step": 3, "held_out_loss": 0.5},
    ]
    clock.now = 160.0
    meter = Meter(records, clock=clock, wall=clock)
    clock.now += 50.0
    values = meter.report(5)
    assert values["step_seconds"] == pytest.approx(80.0)
    assert values["run_seconds"] == pytest.approx(200.0)
    assert values["goodput"] == pytest.approx(80 / 200)


def test_speed_is_the_part_of_a_known_peak_else_operations_a_second(clock):
    for kind, name, value in (("NVIDIA H100 80GB HBM3", "mfu", 0.4), ("cpu", "gflops", 395600.0)):
        meter = Meter(clock=clock, wall=clock, device_kind=kind)
        assert not {"mfu", "gflops"} & set(meter.report(1))
        meter.flops = 0.4 * 989e12 * 2.0
        clock.now += 10.0
        values = meter.report(5)
        assert values[name] == pytest.approx(value)
        assert len({"mfu", "gflops"} & set(values)) == 1


def test_few_words_say_what_is_worth_it():
    values = {"compute_seconds": 0.8, "data_seconds": 0.16, "save_seconds": 0.04, "goodput": 0.9}
    assert told(values | {"mfu": 0.41}) == "41% MFU  goodput 90%  waiting for data 16%"
    assert told(values | {"gflops": 12.34, "data_seconds": 0.0}) == "12.3 GFLOP/s  goodput 90%"


def test_a_profile_is_a_range_of_steps_that_the_run_takes():
    profile = Profile.parse("10:15")
    assert (profile.first, profile.last) == (10, 15)
    for text in ("10", "15:10", "0:3", "a:b", "1:2:3", ""):
        with pytest.raises(Refusal, match=r"no range of steps; say e\.g\. 10:15"):
            Profile.parse(text)
    profile.check(15)
    with pytest.raises(Refusal, match="--profile 10:15: the run has 14 steps"):
        profile.check(14)


def test_a_run_records_its_measures_and_keeps_the_profile_that_was_asked_for(tmp_path, capfd):
    config = replace(configs.load("tests/train/tiny.py"), batch_size=8, steps=6, save_every=3)
    assert train(config, tmp_path / "run", Profile(2, 3))
    records = [r for r in log.read(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    assert len(records) == 6
    for record in records:
        assert record["gflops"] > 0 and 0 < record["goodput"] <= 1
        whole = record["data_seconds"] + record["compute_seconds"] + record["save_seconds"]
        assert whole > 0
    assert records[3]["save_seconds"] > 0 == records[1]["save_seconds"]
    assert records[-1]["step_seconds"] < records[-1]["run_seconds"]
    traces = list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1 and traces[0].stat().st_size > 1000
    assert "profile of steps 2 to 3" in capfd.readouterr().err
