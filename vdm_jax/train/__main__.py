"""`python -m vdm_jax.train --config configs/x.py --workdir runs/x [--optim.learning-rate 3e-4]`."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vdm_jax.core import command, options
from vdm_jax.core.refusal import Refusal
from vdm_jax.train import heartbeat
from vdm_jax.train.stop import stop_sign
from vdm_jax.train.supervise import supervise

PROG = "python -m vdm_jax.train"
USAGE = f"""\
usage: {PROG} --config FILE[:FUNCTION] [--workdir DIR] [--OPTION VALUE ...]

Train a model. The same command again goes on from the last checkpoint.

  --config FILE[:FUNCTION]  a Python file and its function: config if not said, or smoke, the same
                            shrunk to seconds. Or the config.json of a run.
  --workdir DIR             the run directory (default: runs/ and the name of the config)
  --print-config            show the config, options applied, and stop
  --print-sharding          show how each parameter lies on the devices, and stop
  --compile-only HARDWARE   compile the training step for hardware that is not here, show what it
                            takes and stop: v5e:2x4 or any TPU slice, h100:8, h200:8
  --supervise               start it again from its last checkpoint when it crashes or hangs
  --stopped-code CODE       what it exits with when it was stopped before its last step (default 0);
                            75 with --supervise: started again where nobody stopped the supervisor
  --profile FIRST:LAST      keep a trace of these steps, e.g. 10:15, in the run directory
  --processes COUNT         of a run on several machines; each runs this command, with the same
                            options and a workdir that all of them see. srun, mpirun and TPU pods
                            on Kubernetes say so themselves; "auto" asks them and other TPU pods
  --process INDEX           which of them this is, from 0
  --coordinator HOST:PORT   of process 0; any port that is free there
  --help                    this; with --config also every option of that config
"""
PLACE = ("--processes", "--process", "--coordinator")


def main(args: Sequence[str]) -> int:
    """Exit code 0: finished, or stopped and saved where --stopped-code says no other."""
    own = options.own(
        args,
        ("--config", "--workdir", "--compile-only", "--profile", "--stopped-code", *PLACE),
        ("--print-config", "--print-sharding", "--supervise", "--help", "-h"),
    )
    helped = own.switches & {"--help", "-h"}
    if "--config" not in own.values:
        if not helped:
            raise Refusal(
                f"--config is missing, e.g. --config configs/quickstart.py; see {PROG} --help"
            )
        print(USAGE)
        return 0
    if "--compile-only" in own.values or own.switches - {"--supervise"}:
        return _show(own)
    if "--supervise" in own.switches:
        rest = [arg for arg in args if arg != "--supervise"]
        return supervise([sys.executable, "-m", "vdm_jax.train", *rest])
    heartbeat.start()
    with stop_sign():
        return _train(own)


def _exit_code(text: str) -> int:
    if not text.isdecimal() or int(text) > 255:
        raise Refusal(f"--stopped-code {text}: say a number from 0 to 255")
    return int(text)


def _show(own: options.Own) -> int:
    """What is asked for instead of training."""
    helped = own.switches & {"--help", "-h"}
    if helped:
        print(USAGE)
    from vdm_jax.train.config import read

    rest = [*own.rest, *(["--help"] if helped else [])]
    config = read(own.values["--config"], rest, prog=PROG)
    if "--print-config" in own.switches:
        from vdm_jax.core import config as configs

        print(configs.show(config))
        return 0
    if "--print-sharding" in own.switches:
        print(_sharding(config))
        return 0
    return _compile_only(config, own.values["--compile-only"])


def _default_workdir(spec: str) -> str:
    """runs/x for configs/x.py, runs/x-smoke for configs/x.py:smoke, the run itself for a JSON."""
    if spec.endswith(".json"):
        return str(Path(spec).parent)
    name, _, function = spec.partition(".py")
    return str(Path("runs") / Path(name).name) + function.replace(":", "-")


def _sharding(config: Any) -> str:
    from vdm_jax.core import mesh as meshes
    from vdm_jax.train import begin

    mesh = config.mesh.build()
    built = begin.build(config, mesh)
    return meshes.describe(built.abstract.params, mesh)


def _compile_only(config: Any, hardware: str) -> int:
    """Exit code 1: it does not fit. XLA takes least effort unless JAX's own variable says more."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # libtpu would look for its hardware
    if "JAX_EXEC_TIME_OPTIMIZATION_EFFORT" not in os.environ:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    from vdm_jax.core.absent import absent
    from vdm_jax.train import ahead

    found = ahead.check(config, absent(hardware))
    print(found.table())
    return 1 if found.fits is False else 0


def _train(own: options.Own) -> int:
    spec = own.values["--config"]
    stopped = _exit_code(own.values.get("--stopped-code", "0"))
    from vdm_jax.train.config import read

    config = read(spec, own.rest, prog=PROG)
    workdir = Path(own.values.get("--workdir", _default_workdir(spec)))
    from vdm_jax.core import processes
    from vdm_jax.train.loop import train
    from vdm_jax.train.measure import Profile

    processes.join(*(own.values.get(name) for name in PLACE))
    logging.basicConfig(format="%(message)s", level=logging.ERROR, force=True)
    logging.getLogger("vdm_jax").setLevel(logging.WARNING)
    steps = own.values.get("--profile")
    profile = None if steps is None else Profile.parse(steps)
    if not train(config, workdir, profile):
        processes.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stopped)  # a compilation that was left behind cannot be ended otherwise
    return 0


if __name__ == "__main__":
    command.run(main)
