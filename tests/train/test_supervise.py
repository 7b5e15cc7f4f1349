"""The supervisor, over small programs that crash, hang and refuse as a training does."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.train.__main__ import main
from vdm_jax.train.heartbeat import LEAST, REST, Pulse
from vdm_jax.train.supervise import Patience, supervise

QUICK = Patience(silent=1.5, first=5.0, wait=0.01)


def program(text):
    """A program that beats each 0.1 s; `life` counts its lives in the file it is given."""
    head = """
        import os, signal, sys, time
        from pathlib import Path
        from vdm_jax.train import heartbeat
        heartbeat.INTERVAL = 0.1
        heartbeat.start()
        pulse = heartbeat.pulse()
        lives = Path(sys.argv[1])
        life = len(lives.read_text()) if lives.exists() else 0
        lives.write_text("x" * (life + 1))
        """
    return textwrap.dedent(head) + textwrap.dedent(text)


def watched(tmp_path, text, patience=QUICK):
    """(exit code, lives, what was said)."""
    said, lives = [], tmp_path / "lives"
    code = supervise([sys.executable, "-c", program(text), str(lives)], patience, said.append)
    return code, len(lives.read_text()), said


def test_what_ends_well_is_not_started_again(tmp_path):
    assert watched(tmp_path, "pulse.beat(1)") == (0, 1, [])


@pytest.mark.parametrize("code", [2, 130])
def test_a_refusal_is_not_tried_again(tmp_path, code):
    assert watched(tmp_path, f"sys.exit({code})") == (code, 1, [])


def test_crashes_are_started_again_as_long_as_they_get_further(tmp_path):
    text = """
        for step in range(1, life + 2):
            pulse.beat(step)
        time.sleep(0.3)
        if life < 7:
            os.kill(os.getpid(), signal.SIGSEGV) if life % 2 else sys.exit(1)
    """
    code, lives, said = watched(tmp_path, text)
    assert (code, lives, len(said)) == (0, 8, 7)
    assert said[0] == (
        "supervisor: at step 1 the training ended with code 1; it is started again in 0.01 s"
    )
    assert "was ended by SIGSEGV" in said[1]


def test_a_crash_loop_ends_with_one_line(tmp_path):
    code, lives, said = watched(tmp_path, "pulse.beat(3); time.sleep(0.3); sys.exit(1)")
    assert (code, lives) == (1, 6)  # the first one did get somewhere
    assert said[-1] == (
        "error: the training crashes in a loop: 5 starts in a row got no further than step 3; "
        "the last one ended with code 1"
    )


def test_what_is_unavailable_is_waited_for_longer_each_time(tmp_path):
    text = "time.sleep(0.01); sys.exit(75 if life < 8 else 0)"
    patience = Patience(wait=0.001, longest_wait=0.05)
    code, lives, said = watched(tmp_path, text, patience)
    assert (code, lives) == (0, 9)
    waits = [float(line.split()[-2]) for line in said]
    assert waits == sorted(waits) and waits[-1] == 0.05


HANGS = {
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "interpreter lock held": "import ctypes; ctypes.PyDLL(None).sleep(100)",
    "not moving": "heartbeat.LEAST = 0.5; pulse.beat(3); time.sleep(100)",
    "before its first word": "",
}


@pytest.mark.parametrize("hang", list(HANGS))
def test_a_hang_is_found_killed_and_started_again(tmp_path, hang):
    text = "if life == 0:\n    pulse.beat(1); pulse.beat(2); time.sleep(0.3)\n    " + HANGS[hang]
    if not HANGS[hang]:
        text = ""
    code, lives, said = watched(tmp_path, text) if text else mute(tmp_path)
    assert (code, lives, len(said)) == (0, 2, 1)
    assert "and was killed; it is started again" in said[0]


def mute(tmp_path):
    """As `watched`, of a process that hangs before it has said anything."""
    text = """
        import sys, time
        from pathlib import Path
        lives = Path(sys.argv[1])
        life = len(lives.read_text()) if lives.exists() else 0
        lives.write_text("x" * (life + 1))
        time.sleep(0 if life else 100)
        """
    said, lives = [], tmp_path / "lives"
    command = [sys.executable, "-c", textwrap.dedent(text), str(lives)]
    code = supervise(command, Patience(first=0.5, wait=0.01), said.append)
    return code, len(lives.read_text()), said


SUPERVISOR = """
import sys
from vdm_jax.train.supervise import supervise
sys.exit(supervise([sys.executable, "-c", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_the_answer_is_the_last_word(tmp_path, number):
    text = """
        signal.signal(int(sys.argv[2]), lambda *_: sys.exit(7))
        print("ready", flush=True)
        time.sleep(100)
    """
    lives = str(tmp_path / "lives")
    command = [sys.executable, "-c", SUPERVISOR, program(text), lives, str(int(number))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(20) == 7
        assert process.stderr.read() == b""  # nobody speaks of another start
    assert (tmp_path / "lives").read_text() == "x"


def test_a_training_whose_supervisor_is_gone_stops(tmp_path):
    text = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path(sys.argv[2]).write_text("saved")))
        print("ready", flush=True)
        while True: time.sleep(0.1)
    """
    told = tmp_path / "told"
    command = [sys.executable, "-c", SUPERVISOR, program(text), str(tmp_path / "lives"), str(told)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        process.wait()
    end = time.monotonic() + 20
    while not told.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_steps_may_take_twenty_times_what_they_took_and_a_rest_an_hour(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pulse = Pulse()
    assert pulse.now().limit == REST  # starting
    pulse.beat(7)
    assert pulse.now().limit == REST  # the first step: nobody knows
    now[0] += 3
    pulse.beat(8)
    assert pulse.now() == (8, 0.0, 60.0)
    with pulse.resting():
        now[0] += 500
        assert pulse.now() == (8, 500.0, REST)
    assert pulse.now() == (8, 0.0, 60.0)
    for step in range(9, 400):
        now[0] += 0.1
        pulse.beat(step)
    assert pulse.now().limit == LEAST  # a slow step is forgotten in time


def test_the_supervisor_loads_no_jax():
    code = "import sys, vdm_jax.train.supervise as s; assert 'jax' not in sys.modules, 'jax'"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


@pytest.mark.parametrize("code", ["256", "-1", "soon"])
def test_the_code_of_a_stopped_run_is_a_number_of_one_byte(code):
    with pytest.raises(Refusal, match=f"--stopped-code {code}: say a number from 0 to 255"):
        main(["--config", "configs/quickstart.py:smoke", "--stopped-code", code])
