"""What the first cell of every notebook runs: installs this checkout into the notebook's Python.

    install("notebook", "curate")  # and "tpu" or "cuda" where there is one

It needs nothing but Python, and goes before anything imports jax: Colab's own jax is older, and
jax, jaxlib and libtpu must be replaced together.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
REPLACED = ("numpy", "jax", "jaxlib", "flax")  # where Colab has older ones than these need
TPU = ("COLAB_TPU_ADDR", "TPU_NAME", "TPU_WORKER_ID")


def install(*extras: str) -> None:
    """Raises RuntimeError where that fails, or what was replaced is already in use here."""
    wanted = ",".join([*extras, *hardware()])
    command = [*installer(), "--quiet", "-e", f"{SOURCE}[{wanted}]"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{SOURCE}[{wanted}] could not be installed:\n{done.stderr[-3000:]}")
    importlib.invalidate_caches()
    for name in REPLACED:
        new = importlib.metadata.version(name)
        used = getattr(sys.modules.get(name), "__version__", new)
        if used != new:
            raise RuntimeError(
                f"{name} {new} is installed now, but {used} was already imported: choose Restart "
                "session in the menu Runtime, then run this cell again"
            )
    if str(SOURCE) not in sys.path:
        sys.path.append(str(SOURCE))  # what was installed counts from Python's next start on
    cache = Path.home() / ".cache" / "vdm_jax" / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))  # the same again starts at once
    jax = importlib.metadata.version("jax")
    print(f"vdm_jax is installed from {SOURCE}, with {wanted}; jax {jax}")


def installer() -> list[str]:
    """uv where it is there, as on Colab: seconds in place of a minute."""
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]


def hardware() -> list[str]:
    """The extra of the accelerator that is here, if there is one."""
    if any(name in os.environ for name in TPU) or glob("/dev/accel*") or glob("/dev/vfio/[0-9]*"):
        return ["tpu"]
    return ["cuda"] if shutil.which("nvidia-smi") else []
