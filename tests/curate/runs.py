"""Runs of the command, and what tells whether two left the same."""

import hashlib

import pytest

from vdm_jax.core import command
from vdm_jax.curate import __main__ as curate


def run(source, output, config, *options):
    args = ["--input", source, "--output", output, "--config", config, *options]
    with pytest.raises(SystemExit) as end:
        command.run(curate.main, list(map(str, args)))
    assert end.value.code == 0


def fingerprint(output):
    """Hash of all that a curation leaves but its report, whose pictures name no bytes."""
    files = sorted(p for p in output.rglob("*") if p.is_file() and p.suffix != ".html")
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(output)).encode() + path.read_bytes())
    return digest.hexdigest()
