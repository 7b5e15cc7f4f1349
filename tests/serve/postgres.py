"""A PostgreSQL server of this machine's own, for tests of several hosts that share a store."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import sqlalchemy as sa

PLACES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),)
USER = "postgres"
SETTINGS = "-c listen_addresses='' -c max_connections=200 -c fsync=off -c log_min_messages=fatal"


def missing():
    """Why there can be none here; an empty text where there can."""
    if _programs() is None:
        return "PostgreSQL's initdb and pg_ctl are not installed"
    if os.geteuid():
        return ""
    if shutil.which("setpriv") is None or USER not in [each.pw_name for each in pwd.getpwall()]:
        return f"PostgreSQL does not run as root, and there is no setpriv or no user {USER}"
    return ""


def _programs():
    found = shutil.which("initdb")
    places = (*PLACES, *([Path(found).resolve().parent] if found else ()))
    return next((place for place in places if (place / "pg_ctl").exists()), None)


class Postgres:
    """A server that listens at a socket in a folder of its own; it forgets all in the end."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))
        self._count = 0
        if not os.geteuid():
            shutil.chown(self.folder, USER, USER)
        self._run("initdb", "-D", self.folder / "data", "-U", USER, "-A", "trust", "--no-sync")
        self.start()

    def start(self):
        options = f"{SETTINGS} -c unix_socket_directories={self.folder}"
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", log, "-o", options, "start")

    def stop(self):
        """As a machine that goes down would: whoever is connected is cut off."""
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def close(self):
        self.stop()
        shutil.rmtree(self.folder)

    def made(self):
        """The address of a new database."""
        self._count += 1
        name = f"vdm{self._count}"
        engine = sa.create_engine(
            self._address("postgres").replace("postgresql:", "postgresql+psycopg:"),
            isolation_level="AUTOCOMMIT",
        )
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._address(name)

    def _address(self, name):
        return f"postgresql://{USER}@/{name}?host={self.folder}"

    def _run(self, program, *arguments):
        given = [str(each) for each in (_programs() / program, *arguments)]
        if not os.geteuid():
            given = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *given]
        said = self.folder / f"{program}.txt"
        with said.open("w") as file:  # the server keeps what it is given, a pipe would not end
            done = subprocess.run(given, stdout=file, stderr=file, cwd=self.folder)
        assert not done.returncode, said.read_text()
