"""What every test can use."""

from pathlib import Path

import pytest

from tests import parts
from tests.parts import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

REAL_ENGINES = "tests/contract/"  # one process starts them, once


def pytest_collection_modifyitems(items):
    """Skip what needs a part that is missing, and say which tests share a process where there are several."""
    parts.skip_what_lacks_a_part(items)
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(REAL_ENGINES if file.startswith(REAL_ENGINES) else file))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """The session's own Redis, with `url`, `kill()`, `start()` and `frozen()`. Whoever kills it starts it again."""
    from tests.servers.redis_server import RedisServer

    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server):
    """The URL of an empty Redis."""
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server():
    """
    The session's own PostgreSQL: `url`, `stop()`, `start()`, `frozen()`. Whoever stops it starts it again.

    Not in pytest's folder: that is closed to the server's own user, again and again, by every session that starts.
    """
    import tempfile

    from tests.servers.postgres_server import PostgresServer

    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of a fresh, empty database."""
    import secrets

    return postgres_server.new_database(f"test_{secrets.token_hex(6)}")
