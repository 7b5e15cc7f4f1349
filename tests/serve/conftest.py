import pytest
from serve import postgres as postgresql
from serve.served import Server, write_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The directory of a tiny model."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def served(tiny, tmp_path_factory):
    """A server that needs keys, for tests that only ask it."""
    server = Server(tiny, tmp_path_factory.mktemp("served"), "--quota.requests-per-minute", "60000",
                    "--quota.concurrent-videos", "64")  # fmt: skip
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server."""
    if why := postgresql.missing():
        pytest.skip(why)
    server = postgresql.Postgres()
    yield server
    server.close()
