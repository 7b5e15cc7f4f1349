"""Settings every test runs under: 8 virtual CPU devices, strict shapes, a persistent XLA cache.

XLA compiles without optimisation, which halves the time of the suite: the programs are tiny.
"""

import gc
import os
import socket
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"  # a machine under load is no dead one
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/vdm_jax/xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

gc.set_threshold(100_000, 50, 50)  # tracing makes many objects, nearly none of them garbage


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """What a module compiled does not outlive it: a worker of the whole suite would take 12 GB."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


SAYS_INTO = """
import sys
sys.stdout = open(sys.argv.pop(1), "w")
"""


@pytest.fixture
def two_processes(tmp_path_factory):
    """Runs a program as two processes of two devices: the lines that each printed.

    The program gets the arguments, then "host:port" of process 0 and the number of the process.
    """

    def run(program: str, *arguments: str) -> list[list[str]]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{listener.getsockname()[1]}"
        said = [tmp_path_factory.mktemp("said") / str(index) for index in range(2)]
        children = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    SAYS_INTO + program,
                    path,
                    *arguments,
                    coordinator,
                    path.name,
                ],
                env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
                stdout=subprocess.DEVNULL,  # gloo prints there, between the letters of others
                stderr=subprocess.PIPE,
                text=True,
            )
            for path in said
        ]
        try:
            errors = [child.communicate(timeout=120)[1] for child in children]
        finally:
            for child in children:
                child.kill()
                child.communicate()
        assert [child.returncode for child in children] == [0, 0], errors
        return [path.read_text().splitlines() for path in said]

    return run
