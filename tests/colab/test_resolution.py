"""What each notebook asks for goes together with what Colab's image holds, on both its Pythons."""

import re
import subprocess
import sys

import pytest
from colab.books import NAMES, ROOT, extras

pytestmark = pytest.mark.long


@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_it_resolves_beside_what_colab_has(python, tmp_path):
    """All notebooks at once, since each asks for some of the same; on a TPU.

    Colab's packages are asked for too, not only held where they are wanted anyway.
    """
    asked = sorted({extra for name in NAMES for extra in extras(name)} | {"tpu"})
    colab = ROOT / "colab" / f"constraints-{python}.txt"
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
    ]
    command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_35"]
    command += [word for extra in asked for word in ("--extra", extra)]
    out = tmp_path / "resolved.txt"
    done = subprocess.run(
        [*command, "--output-file", out, "pyproject.toml", colab],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)$", out.read_text(), re.MULTILINE))
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", colab.read_text(), re.MULTILINE))
    assert pins and pins.items() <= found.items()
    assert {"jax", "jaxlib", "libtpu", "flax", "mediapy"} <= found.keys()
    assert found["jax"] == found["jaxlib"]
