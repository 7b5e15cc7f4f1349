"""`python -m vdm_jax.convert.blank --config FILE[:FUNCTION] --output DIR`: an untrained model.

The model of a config as a model directory, with weights that are drawn and no layer silent: what it
makes is noise, and heeds what it is told. It is there to try what else a model is put through, with
`configs/finetune_svd.py:tiny` in seconds.
"""

from collections.abc import Sequence
from pathlib import Path

from flax import nnx

from vdm_jax.adapters.lora import awake
from vdm_jax.core import checkpoint, command, options
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import unplaced
from vdm_jax.core.refusal import Refusal
from vdm_jax.tasks.task import ModelConfig, Pretrained

PROG = "python -m vdm_jax.convert.blank"
USAGE = f"""\
usage: {PROG} --config FILE[:FUNCTION] --output DIR

Write a model directory of a config's model with weights that are not trained.

  --config FILE[:FUNCTION]  a Python file and its function: config if not said
  --output DIR              the model directory; must not exist, or be empty
"""


def main(args: Sequence[str]) -> int:
    """Exit code 0: the directory is written."""
    own = options.own(args, ("--config", "--output"), ("--help", "-h"))
    if own.switches:
        print(USAGE)
        return 0
    if own.rest:
        raise Refusal(f"unknown option {own.rest[0]!r}; see {PROG} --help")
    if missing := [name for name in ("--config", "--output") if name not in own.values]:
        raise Refusal(f"{missing[0]} is missing; see {PROG} --help")
    write(own.values["--config"], Path(own.values["--output"]))
    print(f"wrote {own.values['--output']}: weights that are not trained")
    return 0


def write(spec: str, output: Path) -> None:
    """Raises Refusal for a config without a model, and a directory that holds something."""
    checkpoint.check_new(output)
    config = configs.load(spec)
    model = getattr(config, "model", None)
    if not isinstance(model, ModelConfig):
        raise Refusal(f"{spec} gives a {type(config).__name__}, which describes no model")
    made = Pretrained(model=model, task=config.task)
    with unplaced():
        weights = nnx.state(awake(model.build(rngs=nnx.Rngs(0))), nnx.Param)
    checkpoint.save_weights(output, configs.to_json(made), weights)


if __name__ == "__main__":
    command.run(main)
