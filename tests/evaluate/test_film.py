"""FVD on a film with the published I3D: a program of its own, since XLA is to optimise for it."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_worse_clips_are_further_away():
    """Half an hour: 256 clips on each side, eight ways of making them worse."""
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "tests/bench/film_fvd.py"], env=plain, check=True)
