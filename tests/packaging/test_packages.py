"""What is published: the wheel and the sdist, and each extra in an environment of its own."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import vdm_jax
from vdm_jax.core import video

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BROUGHT = {
    "bench": "diffusers",  # beside a torch for CPUs alone, torchvision cannot be imported
    "cuda": "jax_cuda12_plugin",
    "curate": "scenedetect",
    "evaluate": "cv2",
    "notebook": "mediapy",
    "postgresql": "psycopg",
    "ray": "ray",
    "serve": "fastapi",
    "test": "hypothesis",
    "tpu": "libtpu",
    "track": "wandb",
}
"""A module that each extra brings."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """(wheel, sdist) of the files that git knows, as a clone would have them."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{ROOT}", clone], check=True)
    build = [sys.executable, "-m", "build", "--installer", "uv", "--outdir", str(out), str(clone)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def made(folder: Path, *wanted: str) -> Path:
    """Python of an empty environment into which `wanted` was installed."""
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), *wanted], check=True)
    return python


@pytest.mark.long
def test_the_packages_hold_the_library_and_nothing_else(packages):
    wheel, sdist = packages
    tracked = ["git", "-C", str(ROOT), "ls-tree", "-r", "--name-only", "HEAD"]
    files = set(subprocess.run(tracked, check=True, capture_output=True, text=True).stdout.split())
    library = {name for name in files if name.startswith("vdm_jax/")}
    named = f"vdm_jax-{vdm_jax.__version__}"
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    assert {name for name in inside if not name.startswith(f"{named}.dist-info/")} == library
    assert f"{named}.dist-info/licenses/LICENSE" in inside
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    configs = {name for name in files if name.startswith("configs/")}
    about = {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore"}
    assert inside - about == library | configs
    assert {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE"} < inside


@pytest.mark.long
def test_it_trains_and_samples_where_nothing_else_is_installed(packages, tmp_path):
    """The wheel, which `build` made of the sdist."""
    python = made(tmp_path / "venv", str(packages[0]))
    vdm = [str(python.parent / "vdm")]
    config = f"{ROOT / 'configs' / 'quickstart.py'}:smoke"
    run = tmp_path / "run"
    told = ran([*vdm, "train", "--config", config, "--workdir", str(run)], tmp_path)
    assert "trained steps" in told
    output = tmp_path / "out.mp4"
    picture = run / "samples" / "first_frame.png"
    asked = ["--image", str(picture), "--prompt", "a red circle moves right"]
    ran([*vdm, "sample", "--model", str(run), *asked, "--output", str(output)], tmp_path)
    assert video.read(output).frames.shape == (4, 16, 16, 3)


def ran(command, folder) -> str:
    """What a command said, on both streams; it ends well and warns of nothing."""
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # for speed
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not re.search("Traceback|Warning|WARNING", said), said
    return said


def test_every_extra_is_known_here():
    assert set(PROJECT["optional-dependencies"]) == set(BROUGHT)


@pytest.mark.slow
@pytest.mark.parametrize("extra", BROUGHT)
def test_each_extra_installs(packages, tmp_path, extra):
    """In an environment of its own, by pip; what needs torch or CUDA takes gigabytes."""
    venv = tmp_path / "venv"
    python = venv / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    try:
        wanted = f"vdm-jax[{extra}] @ file://{packages[0]}"
        subprocess.run([str(python), "-m", "pip", "install", "-q", wanted], check=True)
        code = f"import importlib, vdm_jax; importlib.import_module({BROUGHT[extra]!r})"
        ran([str(python), "-c", code], tmp_path)
    finally:
        shutil.rmtree(venv)
