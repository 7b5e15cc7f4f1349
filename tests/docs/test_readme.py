"""README's commands, block by block, in a fresh clone and a fresh environment, as they stand there.

`SHRUNK` says all that is changed: long runs are made short by their own options. The weights that
one downloads are the one thing that cannot be had here: a small model in their layout, which the
project's own commands make, stands for them.
"""

import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from docs import pages

from vdm_jax.core import video
from vdm_jax.data.synthetic import MovingShapes

README = pages.ROOT / "README.md"
ADDRESS = "https://github.com/vdm-jax/vdm_jax"
SHRUNK = {
    "--config configs/quickstart.py": "--config configs/quickstart.py:smoke "
    "--workdir runs/quickstart",
    "--num-frames 25": "--num-frames 3 --height 16 --width 16",
    "--num-steps 25": "--num-steps 2",
    "--dtype bfloat16": "--dtype float32",
    "--config configs/finetune_svd.py:lora": "--config configs/finetune_svd.py:tiny_clips "
    "--workdir runs/finetune_svd-lora",
    "--config configs/real_video.py": "--config configs/real_video.py:smoke",
    "--output data/clips": "--output data/clips --config configs/curate.py:small",
}
DOWNLOAD = (
    "hf download stabilityai/stable-video-diffusion-img2vid-xt "
    '--include "*.json" --include "*.fp16.safetensors" \\\n    --local-dir svd_xt'
)
INSTEAD = """
python -m vdm_jax.convert.blank --config configs/finetune_svd.py:tiny --output stand_in
python -m vdm_jax.convert --from stand_in --to diffusers --output svd_xt --dtype float16 \\
    --variant fp16
"""
NOISE = re.compile("Traceback|Warning|WARNING")
EXPECTED = re.compile("(?m)^.*DeprecationWarning: The Sora API .*$|^WARNING: Location .*$")
"""What README speaks of, of openai; and of pip, where packages come from mirrors."""
SERVED = "python -m vdm_jax.serve --model runs/quickstart --data served"


class Reader:
    """Somebody who types what the page says, one block after the other, in one shell."""

    def __init__(self, folder: Path):
        self.folder = folder / "vdm_jax"
        self._before = folder

    def environment(self) -> dict[str, str]:
        """Of the machine, without what runs the tests; `git` finds the clone's address here.

        XLA compiles without optimisation, as in all tests: the programs are tiny.
        """
        env = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL", "XLA"))
        }
        env |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{pages.ROOT}.insteadOf"}
        return env | {
            "GIT_CONFIG_VALUE_0": ADDRESS,
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }

    def shell(self, block: str) -> list[str]:
        active = f"[ -d {self.folder} ] && cd {self.folder} && source .venv/bin/activate; set -e\n"
        return ["bash", "-c", active + block]

    def types(self, block: str) -> str:
        done = subprocess.run(
            self.shell(block), cwd=self._before, env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}"
        said = re.sub(EXPECTED, "", done.stdout)
        assert not NOISE.search(said), f"{block}\n{said}"
        return done.stdout


@pytest.mark.long
def test_every_block_does_what_it_says(tmp_path):
    reader, left = Reader(tmp_path), pages.blocks(README)
    clone, install, sample, convert, tune, curate, serve = (short(block) for block in left)

    reader.types(clone)
    said = reader.types(install)
    assert "trained steps 0 to 6" in said
    at = reader.folder
    for name in ("report.html", "loss.png", "metrics.jsonl", "log.txt", "config.json"):
        assert (at / "runs/quickstart" / name).is_file()
    reader.types(sample)
    assert video.read(at / "out.mp4").frames.shape == (4, 16, 16, 3)

    assert DOWNLOAD in convert
    reader.types(convert.replace(DOWNLOAD, INSTEAD))
    clips = MovingShapes(num_frames=3, height=16, width=16).build()
    assert video.read(at / "svd.mp4").frames.shape == clips[0]["video"].shape
    long = MovingShapes(num_frames=60, height=32, width=32, fps=7.0).build()
    (at / "clips").mkdir()
    for number in range(2):
        video.write(at / "clips" / f"{number}.mp4", long[number]["video"], 7)
    reader.types(tune)
    assert video.read(at / "tuned.mp4").frames.shape == clips[0]["video"].shape
    assert (at / "mine.safetensors").is_file() and (at / "exported/unet/config.json").is_file()

    reader.types(curate)
    assert (at / "data/clips/report.html").is_file() and (at / "data/clips/clips.parquet").is_file()
    assert "trained steps" in (at / "runs/real_video-smoke/log.txt").read_text()
    served(reader, serve)


def served(reader: Reader, block: str) -> None:
    """The server's block, and the Python below it, which speaks to the server."""
    install, _, start = block.strip().rpartition("\n")
    assert start == SERVED
    reader.types(install)
    program = next(
        body for kind, body in pages.FENCE.findall(README.read_text()) if "import openai" in body
    )
    run = reader.shell(f"exec {start}")
    process = subprocess.Popen(
        run, cwd=reader.folder, env=reader.environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until_ready()
        reader.types(f"python - <<'END'\n{program}\nEND")
        frames = video.read(reader.folder / "served.mp4").frames
        assert frames.shape == (4, 16, 16, 3) and np.ptp(frames) > 0
    finally:
        process.terminate()
        assert process.wait(30) == 0


def until_ready(seconds: float = 120.0) -> None:
    ends = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen("http://127.0.0.1:8000/ready") as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        assert time.monotonic() < ends, "the server is not ready"
        time.sleep(0.2)


def short(block: str) -> str:
    """A block, shrunk; what each replacement stands for must be in some block."""
    for said, instead in SHRUNK.items():
        block = re.sub(rf"{re.escape(said)}(?=\s|$)", instead, block)
    return block


def test_all_that_is_shrunk_is_on_the_page():
    page = "\n".join(pages.blocks(README))
    assert [said for said in (*SHRUNK, DOWNLOAD, SERVED, ADDRESS) if said not in page] == []
