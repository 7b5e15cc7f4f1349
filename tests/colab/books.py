"""The notebooks as the tests see them, and how one is run in an environment of its own."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).parents[2]
NAMES = ("first_video", "animate_a_picture", "finetune_svd", "curate", "evaluate")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALL = re.compile(r'\["install"\]\((.*)\)')


def source(name: str) -> Any:
    """The notebook as its .py says."""
    return jupytext.read(ROOT / "colab" / f"{name}.py")


def stored(name: str) -> Any:
    return nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)


def code(book: Any) -> list[str]:
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def extras(name: str) -> list[str]:
    """What the notebook's own install cell asks for."""
    (asked,) = INSTALL.findall("\n".join(code(stored(name))))
    return shlex.split(asked.replace(",", " "))


def environment(folder: Path) -> Path:
    """A fresh virtual environment with what Colab itself brings: ipykernel. Its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    subprocess.run([*uv, "ipykernel"], check=True, capture_output=True)
    return python


def executed(name: str, folder: Path, **fields: str) -> Any:
    """The notebook, run from top to bottom in `folder` / "work" in an environment of its own.

    fields: of its form, as the environment has them. Raises CalledProcessError if a cell raises.
    """
    python = environment(folder / "venv")
    kernel = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    told = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "fresh",
        "language": "python",
        "env": {
            "PYTHONPATH": "",
            "PATH": f"{python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "VDM_JAX_SOURCE": str(ROOT),
            **{f"VDM_JAX_{field.upper()}": value for field, value in fields.items()},
        },
    }
    kernel.write_text(json.dumps(told))
    (folder / "work").mkdir()
    book = ROOT / "colab" / f"{name}.ipynb"
    done = folder / f"{name}.ipynb"
    program = [sys.executable, Path(__file__).parent / "execute.py", book, done, folder / "work"]
    environ = os.environ | {"JUPYTER_PATH": str(folder / "jupyter")}
    subprocess.run(program, env=environ, check=True)
    return nbformat.read(done, as_version=4)


def said(book: Any) -> str:
    """Everything that its cells printed."""
    streams = (out for cell in book.cells for out in cell.get("outputs", ()))
    return "".join(out.text for out in streams if out.output_type == "stream")
