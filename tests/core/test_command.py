"""How a command ends: exit codes and what the user reads, in a real process."""

import subprocess
import sys

import pytest

PROGRAM = """
import errno, os, sys
from vdm_jax.core.command import run
from vdm_jax.core.refusal import Refusal, Unavailable

def main(args):
    print("started", *args)
    {body}

run(main)
"""


def command(body: str, *args: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(body=body)
    return subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return None", 0, ""),
        ("return 3", 3, ""),
        ("raise Refusal('steps is 0;\\n it must be above 0')", 2,
         "error: steps is 0; it must be above 0\n"),
        ("raise Unavailable('no room')", 75, "error: no room\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise OSError(errno.ENOSPC, 'full', 'runs/a/log.txt')", 2,
         "error: no space left on the device: runs/a/log.txt\n"),
        ("with open('/dev/full', 'w') as f: f.write('x')", 2,
         "error: no space left on the device\n"),
        ("raise PermissionError(errno.EACCES, 'no', 'runs/a')", 2,
         "error: permission denied: runs/a\n"),
        ("raise OSError(errno.EROFS, 'read-only', 'runs/a')", 2,
         "error: the file system is read-only: runs/a\n"),
        ("sys.exit(5)", 5, ""),
    ],
)  # fmt: skip
def test_exit_code_and_the_one_line(body, code, message):
    done = command(body, "a", "b")
    assert (done.returncode, done.stderr) == (code, message)
    assert done.stdout == "started a b\n"


def test_a_bug_keeps_its_traceback():
    done = command("{}['a']")
    assert done.returncode == 1 and "Traceback" in done.stderr and "KeyError: 'a'" in done.stderr


def test_a_reader_that_goes_away_is_no_error():
    program = PROGRAM.format(body="[print('x' * 100) for _ in range(10_000)]")
    pipe = f'{sys.executable} -c "$0" | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", pipe, program], capture_output=True, text=True)
    assert done.stdout == "started\n141\n" and done.stderr == ""
