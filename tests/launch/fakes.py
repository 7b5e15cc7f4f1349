"""Programs that are not here (gcloud, kubectl, xpk, srun, …), in whose place a recorder stands.

It writes down what it was called with and answers what the test said, so that what is real, the
scripts, can be run whole.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
TRAINING = ["--config", "configs/quickstart.py", "--workdir", "/runs/x"]

KEPT = ("HOME", "LANG", "TMPDIR", "UV_", "SSL_", "HTTP", "ALL_PROXY", "NO_PROXY", "JAX_COMPILATION")

RECORDER = """\
#!{python}
import json, os, sys
folder = os.environ["FAKES"]
argv = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open(folder + "/calls", "a") as calls:
    calls.write(json.dumps(argv) + "\\n")
path = folder + "/answers"
with open(path) as file:
    answers = json.load(file)
for words, queue in answers.items():
    if words in " ".join(argv):
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        with open(path, "w") as file:
            json.dump(answers, file)
        if isinstance(answer, int):
            sys.exit(answer)
        print(answer)
        break
"""


class Fakes:
    """A folder of fake programs. answers: words of a call -> what it prints (text) or its exit code
    (a number), one after the other; the last stays."""

    def __init__(self, folder, *names):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for name in names:
            path = self.bin / name
            path.write_text(RECORDER.format(python=sys.executable))
            path.chmod(0o755)
        self.answers({})

    def answers(self, answers):
        (self.folder / "answers").write_text(json.dumps(answers))
        (self.folder / "calls").write_text("")

    def environment(self, **settings):
        kept = {k: v for k, v in os.environ.items() if k.upper().startswith(KEPT)}
        path = f"{self.bin}:{Path(sys.executable).parent}:/usr/bin:/bin"
        return kept | {"PATH": path, "FAKES": str(self.folder)} | settings

    def run(self, script, *arguments, **settings):
        """One of the launchers to its end."""
        return subprocess.run(
            ["bash", str(LAUNCH / script), *arguments],
            env=self.environment(**settings),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self):
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def called(self, *words):
        """Calls that hold all these words."""
        return [call for call in self.calls if all(word in " ".join(call) for word in words)]


def refused(done):
    """One line on stderr that begins with error, and code 2."""
    lines = done.stderr.splitlines()
    return done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: ")
