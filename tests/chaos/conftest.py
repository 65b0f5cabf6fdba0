"""Installations whose parts are killed: simulated engines, everything else real."""

import pytest

from tests.servers.installation import Installation

# About 200 tokens/s a stream: long enough answers to be caught in mid-stream, short enough for many of them.
SIM = ("--max-num-seqs", "16", "--engine-arg=--inter-token-ms=5", "--engine-arg=--prefill-tokens-per-s=100000")


@pytest.fixture
def installation(tmp_path, redis_url):
    """Redis and SQLite, no gateway and no worker yet."""
    installation = Installation(tmp_path / "home", redis_url=redis_url)
    yield installation
    installation.close()


def start_workers(installation, count: int, *options: str) -> None:
    """Start *count* workers with simulated engines and wait until they are ready."""
    for _ in range(count):
        installation.add_worker("sim", *SIM, *options)
    for worker in installation.workers:
        worker.wait_ready(30)
