"""`python -m vdm_jax.sample --model runs/x --image a.png --prompt "…" --output out.mp4`."""

import importlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

from vdm_jax.core import command, options
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal

PROG = "python -m vdm_jax.sample"


class Does(NamedTuple):
    """module, function: of `vdm_jax.sample.commands`. request: what the function takes."""

    module: str
    request: str
    function: str
    what: str


TASKS = {
    "t2v": Does("drawing", "Request", "from_captions", "a caption becomes a video"),
    "i2v": Does("drawing", "Request", "from_pictures", "a picture becomes a video"),
    "predict": Does("extending", "Predict", "predict", "a video's next frames"),
    "extend": Does("extending", "Extend", "extend", "a video of any length, by a plan"),
    "interpolate": Does("interpolating", "Interpolate", "run", "more frames a second"),
    "walk": Does("walking", "Walk", "run", "a film between prompts and seeds"),
    "edit": Does("editing", "Edit", "run", "a video drawn anew from itself"),
    "upscale": Does("upscaling", "Upscale", "run", "a video, several times as high and wide"),
}
OWN = Does("drawing", "Request", "run", "what the model was trained for")

LISTED = "\n".join(f"  {name:12}{does.what}" for name, does in TASKS.items())
USAGE = f"""\
usage: {PROG} [--task NAME] --model DIR [OPTIONS]

Draws with a trained or converted model. Without --task, what the model was trained for.

{LISTED}

{PROG} --task NAME --help lists the options of a task; those without --task follow.
"""


def main(args: Sequence[str]) -> int:
    """Exit code 0, and a line for each file that was written."""
    logging.getLogger("vdm_jax").setLevel(logging.WARNING)
    values, _, rest, _ = options.own(args, ("--task",), ())
    name = values.get("--task")
    if name is not None and name not in TASKS:
        raise Refusal(f"--task {name}: there are {', '.join(TASKS)}")
    if name is None and {"--help", "-h"} & set(rest):
        print(USAGE)
    does = OWN if name is None else TASKS[name]
    module = importlib.import_module(f"vdm_jax.sample.commands.{does.module}")
    prog = PROG if name is None else f"{PROG} --task {name}"
    request = configs.override(getattr(module, does.request)(), rest, prog=prog)
    return getattr(module, does.function)(request)


if __name__ == "__main__":
    command.run(main)
