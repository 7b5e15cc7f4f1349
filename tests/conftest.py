"""Settings every test runs under: 8 virtual CPU devices, strict shapes, a persistent XLA cache.

XLA compiles without optimisation, which halves the time of the suite: the programs are tiny.
"""

import gc
import os

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


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
