"""What notebooks need beside the commands: forms, commands whose lines appear, videos on the page.

A notebook's form holds plain values, which Colab shows as fields; the environment overrides them,
so that the same notebook also runs unattended.
"""

import importlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal

PREFIX = "VDM_JAX_"
DRIVE = Path("/content/drive/MyDrive")
TRUTHS = {"1": True, "true": True, "0": False, "false": False, "": False}
WIDTH = 256  # of a video on the page, about, in pixels
HEIGHT = 800  # of a report


def form(**fields: Any) -> SimpleNamespace:
    """The values of a form; VDM_JAX_STEPS in the environment takes the place of `steps`.

    A value from there becomes what the field's is: a truth value, a whole number, a number or text.
    Raises Refusal for one that cannot.
    """
    return SimpleNamespace(**{name: _field(name, value) for name, value in fields.items()})


def _field(name: str, value: Any) -> Any:
    text = os.environ.get(PREFIX + name.upper())
    if text is None:
        return value
    try:
        return TRUTHS[text.lower()] if isinstance(value, bool) else type(value)(text)
    except (KeyError, ValueError):
        raise Refusal(
            f"{PREFIX}{name.upper()}={text!r} is no {type(value).__name__}, as {name} is"
        ) from None


def mount_drive() -> None:
    """Google Drive, at /content/drive. Raises Refusal anywhere but on Colab."""
    try:
        drive = importlib.import_module("google.colab.drive")
    except ImportError:
        raise Refusal("Google Drive can be mounted on Colab only") from None
    drive.mount("/content/drive")


def results(name: str) -> Path:
    """A folder for what a notebook makes: on Google Drive where that is mounted, else here."""
    folder = (DRIVE / "vdm_jax" if DRIVE.is_dir() else Path("results")) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(command: str, /, *, previews: Path | None = None, **words: Any) -> None:
    """Run a command of this Python's, printing its lines as they come.

        run("python -m vdm_jax.sample --model {model} --prompt {prompt}", model=a, prompt=b)

    Each {name} is replaced within its word, so that values may hold spaces. Of a progress bar the
    last state is printed. previews: a run directory; each preview is shown when it appears there.
    Interrupted, the command is asked to stop and heard to its end (training saves first); it is
    asked too where this process ends. Raises Refusal if it fails.
    """
    python, *rest = (word.format(**words) for word in shlex.split(command))
    argv = [sys.executable if python == "python" else python, *rest]
    shown = set(_previews(previews))
    with subprocess.Popen(
        [*_ends_with_us(), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # else an interrupted kernel would take it along before it saved
    ) as child:
        try:
            _listen(child, previews, shown)
        except BaseException:
            child.terminate()
            _listen(child, previews, shown)
            raise
    if child.returncode:
        raise Refusal(f"{shlex.join(argv[:3])} ended with code {child.returncode}: see its output")


def _ends_with_us() -> list[str]:
    """What to start a program by, so that it is asked to stop when this process is gone."""
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "TERM"]


def _listen(child: "subprocess.Popen[bytes]", previews: Path | None, shown: set[Path]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if said := line.decode(errors="replace").rstrip().rsplit("\r")[-1].rstrip():
            print(said, flush=True)
        for new in _previews(previews):
            if new not in shown:
                shown.add(new)
                show({_titled(new): new})


def _previews(run_directory: Path | None) -> list[Path]:
    return [] if run_directory is None else sorted(run_directory.glob("samples/step_*.mp4"))


def _titled(preview: Path) -> str:
    return f"step {int(preview.stem.removeprefix('step_'))}"


def show(videos: Mapping[str, Path]) -> None:
    """Play video files beside each other on the page, each under its title, by mediapy.

    Small ones are enlarged. Raises Refusal for a file that is no video.
    """
    import mediapy
    from IPython.display import HTML, display

    if shutil.which("ffmpeg") is None:
        import imageio_ffmpeg

        mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    players = []
    for title, path in videos.items():
        frames, fps = video.read(path)
        factor = max(1, round(WIDTH / frames.shape[2]))
        large = frames.repeat(factor, axis=1).repeat(factor, axis=2)
        player = mediapy.show_videos({title: large}, fps=float(fps), return_html=True)
        players.append(player or "")
    row = "display: flex; flex-wrap: wrap; gap: 8px"
    display(HTML(f'<div style="{row}">{"".join(players)}</div>'))


def counted(done: int, steps: int) -> bool:
    """A count of steps on one line, for `sample.studio`; never says to stop."""
    print(f"\rstep {done} of {steps}", end="\n" if done == steps else "", flush=True)
    return True


def page(path: Path) -> None:
    """Show a report.html within the page, in a frame of its own."""
    from IPython.display import HTML, display

    whole = escape(path.read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{whole}" width="100%" height="{HEIGHT}" style="border: 0"></iframe>'
    display(HTML(f"<div>{frame}</div>"))
