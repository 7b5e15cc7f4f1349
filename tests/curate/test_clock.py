"""Steps that run in turns are each told their own time."""

import time

import pytest

from vdm_jax.curate.clock import Clock


def slowly(seconds, items=(1, 2, 3)):
    for item in items:
        time.sleep(seconds)
        yield item


def test_a_step_is_not_told_the_time_of_those_before_it():
    clock = Clock()
    first = clock.over("first", slowly(0.02))
    for _ in clock.over("second", (item for item in first if not time.sleep(0.01))):
        time.sleep(0.03)
    told = clock.rest("rest")
    assert told == pytest.approx({"first": 0.06, "second": 0.03, "rest": 0.09}, abs=0.02)


def test_a_step_that_fails_is_told_its_time_too():
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        list(clock.over("bad", (1 / (time.sleep(0.02) or 0) for _ in "x")))
    assert clock.rest("rest")["bad"] >= 0.02
