"""metrics.jsonl survives kills: torn lines, resumes, and numbers that are none."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.train.log import MetricsLog, read


def test_records_come_back_in_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(10, {"loss": 0.5, "word": "warmup"})
        log.write(20, {"held_out_loss": 0.1 + 0.2})
    assert read(path) == [
        {"step": 10, "loss": 0.5, "word": "warmup"},
        {"step": 20, "held_out_loss": 0.1 + 0.2},
    ]


def test_no_file_is_an_empty_log(tmp_path):
    assert read(tmp_path / "none.jsonl") == []


def test_a_torn_last_line_is_passed_over_and_then_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for torn in ('{"step": 30, "lo', '{"step": 30}', "\0\0\0"):
        path.write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "loss": 0.5}\n' + torn)
        assert [record["step"] for record in read(path)] == [10, 20]
        with MetricsLog(path, step=20) as log:
            log.write(30, {"loss": 0.25})
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30]


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 8):
            log.write(step, {"loss": 1 / step})
    before = path.read_text().splitlines()
    with MetricsLog(path, step=4) as log:
        for step in range(5, 8):
            log.write(step, {"loss": 1 / step})
    assert path.read_text().splitlines() == before


def test_a_new_run_starts_an_empty_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3, "loss": 1.0}\n')
    MetricsLog(path).close()
    assert read(path) == []


def test_numbers_that_are_not_finite_are_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(1, {"loss": math.nan, "norm": math.inf, "skipped": 1})
    line = path.read_text()
    json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert read(path) == [{"step": 1, "loss": None, "norm": None, "skipped": 1}]


def test_written_records_outlive_a_killed_process(tmp_path):
    path = tmp_path / "metrics.jsonl"
    program = (
        "import os, signal, sys\n"
        "from vdm_jax.train.log import MetricsLog\n"
        "log = MetricsLog(sys.argv[1])\n"
        "for step in range(100): log.write(step, {'loss': 0.5})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(read(path)) == 100


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match=r"metrics\.jsonl: Not a directory"):
        MetricsLog(tmp_path / "file" / "metrics.jsonl")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_records_wait_until_a_full_disk_has_room(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(1, {"loss": 1.0})
        kept = os.dup(log._file.fileno())
        with open("/dev/full", "wb", buffering=0) as full:
            os.dup2(full.fileno(), log._file.fileno())
            for step in (2, 3):
                log.write(step, {"loss": 1.0})
            log.sync()
        assert caplog.text.count("metrics wait for room") == 1 and "No space left" in caplog.text
        os.dup2(kept, log._file.fileno())
        os.close(kept)
        log.write(4, {"loss": 1.0})
        assert [record["step"] for record in read(path)] == [1, 2, 3, 4]
