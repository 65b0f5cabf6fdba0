"""One installation with two real vLLM workers, shared by the tests that need the truth."""

import openai
import pytest

from tests.servers.installation import Installation
from tests.servers.redis_server import RedisServer
from tests.servers.tap import tapped

ENGINE_START_S_MAX = 300


@pytest.fixture(scope="package")
def tiny_model(tmp_path_factory):
    """The tiny Qwen3, made on the spot."""
    pytest.importorskip("vllm", reason="the real engine is not installed (extra worker-cpu)")
    from workers.hub.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="package")
def real(tmp_path_factory, tiny_model):
    """A gateway over a Redis of its own and SQLite, two real vLLM workers, a tenant `acme` and its key in `.key`."""
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    redis.start()
    installation = Installation(tmp_path_factory.mktemp("real"), redis_url=redis.url)
    gateway = installation.add_gateway()
    installation.key = installation.declare()
    for _ in range(2):
        installation.add_worker("vllm", "--model", str(tiny_model), "--max-num-seqs", "16", "--max-model-len", "2048")
    for worker in installation.workers:
        worker.wait_ready(ENGINE_START_S_MAX)
    assert len(gateway.ready_workers()) == 2
    yield installation
    installation.close()
    redis.kill()


@pytest.fixture
def client(real):
    """The official Python SDK on the gateway; it does not retry, so that every answer is seen."""
    with openai.OpenAI(base_url=f"{real.gateways[0].url}/v1", api_key=real.key, max_retries=0) as client:
        yield client


@pytest.fixture
def tap(real):
    """A tap in front of the gateway."""
    with tapped(real.gateways[0].port) as tap:
        yield tap
