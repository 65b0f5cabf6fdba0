"""What every test can use."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from tests.parts import pytest_collection_modifyitems, pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_collection_modifyitems", "pytest_make_collect_report", "pytest_runtest_makereport"]

# No example fails for its time: a machine that stands still for a fifth of a second is no counterexample.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

REAL_ENGINES = "tests/contract/"  # one process starts them, once


class Scheduling(LoadFileScheduling):
    """Where there are several processes, each takes whole files, and one of them all that share a real engine."""

    def _split_scope(self, nodeid):
        return REAL_ENGINES if nodeid.startswith(REAL_ENGINES) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config, log):
    """Have `make test` schedule so."""
    return Scheduling(config, log)


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


@pytest.fixture
def sentinels(tmp_path):
    """A Redis with a replica, and the sentinels over both; see tests/servers/redis_sentinel.py."""
    from tests.servers.redis_sentinel import SentinelSet

    yield from _running(SentinelSet(tmp_path / "redis"))


@pytest.fixture
def cluster(tmp_path):
    """A Redis Cluster of six servers; see tests/servers/redis_cluster.py."""
    from tests.servers.redis_cluster import RedisCluster

    yield from _running(RedisCluster(tmp_path / "redis"))


@pytest.fixture(params=["sentinels", "cluster"])
def replicated(request):
    """Each of the two."""
    return request.getfixturevalue(request.param)


def _running(servers):
    try:
        servers.start()
        yield servers
    finally:
        servers.kill()


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
