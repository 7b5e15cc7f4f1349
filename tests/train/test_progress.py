"""The progress line: right numbers, few lines, a live one only on a terminal."""

import fcntl
import io
import os
import pty
import re
import select
import struct
import termios

import pytest

from vdm_jax.train.progress import Progress, duration


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def __call__(self):
        return self.now


def test_plain_lines_tell_pace_and_time_left():
    out, clock = io.StringIO(), Clock()
    progress = Progress(1000, frames_per_step=128, stream=out, clock=clock)
    for step in range(1, 1001):
        clock.now += 0.5
        progress.update(step, loss=1 / step)
    lines = out.getvalue().splitlines()
    assert 45 <= len(lines) <= 55, "one line about every ten seconds of five hundred"
    assert lines[1] == "step 21/1000  loss 0.04762  0.5 s/step  256 frames/s  ETA 8 min 10 s"
    assert lines[-1] == "step 1000/1000  loss 0.001  0.5 s/step  256 frames/s  done"


def test_a_run_of_days_prints_few_lines():
    out, clock = io.StringIO(), Clock()
    progress = Progress(100_000, frames_per_step=8, stream=out, clock=clock)
    for step in range(1, 100_001):
        clock.now += 5.0
        progress.update(step, loss=0.5)
    lines = out.getvalue().splitlines()
    assert 300 <= len(lines) <= 500, "of almost six days"
    assert lines[-1].startswith("step 100000/100000")


def test_updates_every_few_steps_give_the_same_pace():
    out, clock = io.StringIO(), Clock()
    progress = Progress(500, start=100, frames_per_step=8, stream=out, clock=clock)
    for step in range(110, 510, 10):
        clock.now += 20.0
        progress.update(step, loss=0.5)
    assert "2 s/step  4 frames/s  ETA 12 min 40 s" in out.getvalue().splitlines()[1]


def test_compiling_is_said_and_does_not_count_as_training():
    out, clock = io.StringIO(), Clock()
    progress = Progress(100, frames_per_step=8, stream=out, clock=clock)
    with progress.compiling():
        assert out.getvalue() == "compiling the training step …\n"
        clock.now += 42.0
    clock.now += 1.0
    progress.update(1, loss=0.5)
    with progress.busy("drawing previews"):
        clock.now += 30.0
    clock.now += 1.0
    progress.update(2, loss=0.5)
    assert out.getvalue().splitlines() == [
        "compiling the training step …",
        "compiled the training step in 42 s",
        "step 1/100  loss 0.5  1 s/step  8 frames/s  ETA 1 min 39 s",
        "drawing previews …",
        "step 2/100  loss 0.5  1 s/step  8 frames/s  ETA 1 min 38 s",
    ]


def test_a_failure_while_compiling_is_not_called_compiled():
    out = io.StringIO()
    progress = Progress(100, frames_per_step=8, stream=out)
    with pytest.raises(ZeroDivisionError), progress.compiling():
        raise ZeroDivisionError
    assert "compiled" not in out.getvalue()


@pytest.mark.parametrize("columns", [0, 120])
def test_a_terminal_gets_one_live_line_and_the_log_plain_ones(columns):
    log, clock = io.StringIO(), Clock()
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with os.fdopen(writer, "w") as terminal:
        progress = Progress(3, frames_per_step=8, stream=terminal, log=log, clock=clock)
        with progress.compiling():
            clock.now += 5.0
        for step in range(1, 4):
            clock.now += 1.0
            progress.update(step, loss=0.25)
        progress.say("saved step 3")
        progress.close()
        terminal.flush()
        shown = ""
        while not shown.endswith("\r\n\r\n") and select.select([reader], [], [], 1.0)[0]:
            shown += os.read(reader, 65536).decode()
    os.close(reader)
    assert shown.count("\n") == 3, "compiled, saved, and the live line itself"
    assert "compiling the training step …" in shown
    assert re.search(r"100% \|█+\| 3/3, loss 0.25  1 s/step  8 frames/s  done", shown)
    assert log.getvalue().splitlines()[-2:] == [
        "step 3/3  loss 0.25  1 s/step  8 frames/s  done",
        "saved step 3",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
        (185.0, "3 min 05 s"), (3599.7, "1 h 00 min"), (7800.0, "2 h 10 min"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_one_slow_step_hardly_changes_the_time_left():
    out, clock = io.StringIO(), Clock()
    progress = Progress(200, frames_per_step=8, stream=out, clock=clock)
    for step in range(1, 101):
        clock.now += 11.0 if step == 100 else 1.0
        progress.update(step, loss=0.5)
    assert "2 s/step  4 frames/s  ETA 3 min 20 s" in out.getvalue().splitlines()[-1]
