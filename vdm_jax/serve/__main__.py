"""`python -m vdm_jax.serve --model runs/x`: videos over HTTP; and its keys, workers and client."""

import importlib
from collections.abc import Sequence
from typing import NamedTuple

from vdm_jax.core import command

PROG = "python -m vdm_jax.serve"


class Does(NamedTuple):
    """module: of `vdm_jax.serve.commands`, which has a `main`."""

    module: str
    what: str


COMMANDS = {
    "keys": Does("keys", "API keys: create, list, rotate, revoke"),
    "client": Does("client", "ask a server for a video, from the shell"),
    "worker": Does("worker", "draw on this host for servers on others (one PostgreSQL store)"),
}
LISTED = "\n".join(f"  {name:9}{does.what}" for name, does in COMMANDS.items())
USAGE = f"""\
usage: {PROG} --model [NAME=]DIR [OPTIONS]
       {PROG} COMMAND …

Serves videos over HTTP: a page for people, OpenAI's Videos API for programs.

{LISTED}

{PROG} COMMAND --help lists the options of a command; those of the server follow.
"""


def main(args: Sequence[str]) -> int:
    """Exit code 0 after a stop that was asked for."""
    if args and args[0] in COMMANDS:
        module = importlib.import_module(f"vdm_jax.serve.commands.{COMMANDS[args[0]].module}")
        return module.main(args[1:])
    if {"--help", "-h"} & set(args):
        print(USAGE)
    module = importlib.import_module("vdm_jax.serve.commands.server")
    return module.main(args)


if __name__ == "__main__":
    command.run(main)
