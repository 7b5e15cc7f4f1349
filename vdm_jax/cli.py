"""`vdm VERB ...`: the console script; each verb is also `python -m vdm_jax.VERB`."""

import importlib
import sys

from vdm_jax import __version__

VERBS = {
    "train": "train a model: vdm train --config configs/quickstart.py",
    "sample": "make a video with a trained model: vdm sample --model runs/quickstart",
    "evaluate": "say how good videos are: vdm evaluate --model runs/quickstart --real videos",
    "convert": "bring weights here, or take them back: vdm convert --from PATH --output DIR",
    "serve": "videos over HTTP: vdm serve --model runs/quickstart",
    "curate": "make training clips of raw videos: vdm curate --input videos --output data/clips",
}

USAGE = f"""\
usage: vdm VERB [OPTIONS]

vdm_jax {__version__}: video diffusion in JAX.

{chr(10).join(f"  {verb:9}{what}" for verb, what in VERBS.items())}

vdm VERB --help lists the options of a verb.
"""


def main() -> None:
    """Hand over to the verb's own main; no verb, or --help, prints what there is."""
    from vdm_jax.core import command

    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("--help", "-h"):
        print(USAGE, end="")
        sys.exit(0)
    if verb == "--version":
        print(__version__)
        sys.exit(0)
    if verb not in VERBS:
        raise SystemExit(_refused(f"no verb {verb!r}; there are {', '.join(VERBS)}"))
    command.run(importlib.import_module(f"vdm_jax.{verb}.__main__").main, rest)


def _refused(what: str) -> int:
    print(f"error: {what}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
