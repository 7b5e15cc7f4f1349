"""Who is one of several processes, told by options or by what launched it; what is refused."""

import pytest

from vdm_jax.core import processes
from vdm_jax.core.refusal import Refusal

NAMES = (*processes.COUNTS, *processes.HOSTS)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_nobody_said_anything_so_it_is_alone():
    assert not processes.launched_together()
    processes.join(None, None, None)
    processes.join("1", "0", "127.0.0.1:1")  # nobody is waited for


@pytest.mark.parametrize(
    ("name", "value", "several"),
    [
        ("SLURM_STEP_NUM_TASKS", "2", True),
        ("SLURM_STEP_NUM_TASKS", "1", False),
        ("OMPI_COMM_WORLD_SIZE", "4", True),
        ("MEGASCALE_NUM_SLICES", "2", True),
        ("TPU_WORKER_HOSTNAMES", "a,b", True),
        ("TPU_WORKER_HOSTNAMES", "localhost", False),
    ],
)
def test_what_launched_several_processes_says_so(monkeypatch, name, value, several):
    monkeypatch.setenv(name, value)
    assert processes.launched_together() is several


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("2", None, None), "go together"),
        ((None, "0", "127.0.0.1:1"), "go together"),
        (("auto", "0", None), "go together"),
        (("two", "0", "127.0.0.1:1"), "--processes two is no number"),
        (("2", "2", "127.0.0.1:1"), "numbered 0 to 1"),
        (("2", "1", "127.0.0.1"), "say HOST:PORT"),
    ],
)
def test_half_a_place_is_refused(place, message):
    with pytest.raises(Refusal, match=message):
        processes.join(*place)


PROCESS = """
import sys
from vdm_jax.core import processes
from vdm_jax.core.refusal import Refusal
processes.join("2", sys.argv[2], sys.argv[1])
import jax
print(jax.process_index(), jax.device_count(), processes.any_process(flag=jax.process_index() == 1))
with processes.together("first"):
    pass
try:
    with processes.together("the second"):
        if jax.process_index() == 0:
            raise Refusal("the disk of process 0")
except Refusal as refusal:
    print(refusal)
"""


def test_two_processes_meet_and_where_one_fails_both_do(two_processes):
    first, second = two_processes(PROCESS)
    assert first == ["0 4 True", "the disk of process 0"]
    assert second == ["1 4 True", "the second in another process, which says why"]
