"""One installation with two real vLLM workers, shared by the tests that need the truth."""

import openai
import pytest

from tests.servers.installation import Installation
from tests.servers.redis_server import RedisServer
from tests.servers.tap import tapped
from workers.hub.archive import export, import_archive, import_folder
from workers.hub.progress import Silence
from workers.hub.store import ModelStore

ENGINE_START_S_MAX = 300


@pytest.fixture(scope="package")
def tiny_model(tmp_path_factory):
    """The tiny Qwen3, made on the spot."""
    pytest.importorskip("vllm", reason="the real engine is not installed (extra worker-cpu)")
    from workers.hub.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="package")
def carried_model(tmp_path_factory, tiny_model):
    """The tiny Qwen3 as a place without a network gets it: exported to an archive elsewhere, imported here."""
    folder = tmp_path_factory.mktemp("carried")
    there, here = ModelStore(folder / "there"), ModelStore(folder / "here")
    stored = import_folder(tiny_model, "sluice/tiny", there, Silence())
    with (folder / "tiny.tar").open("wb") as out:
        export(stored, out, Silence())
    with (folder / "tiny.tar").open("rb") as source:
        return import_archive(source, here, Silence())


@pytest.fixture(scope="package")
def real(tmp_path_factory, tiny_model, carried_model):
    """
    A gateway over a Redis of its own and SQLite, two real vLLM workers, a tenant `acme` and its key in `.key`.

    One worker serves a folder, the other a model by its id, out of an archive, with a hub that nobody can reach.
    """
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    redis.start()
    installation = Installation(tmp_path_factory.mktemp("real"), redis_url=redis.url)
    gateway = installation.add_gateway()
    installation.key = installation.declare()
    offline = ("--models-dir", str(carried_model.folder.parents[2]), "--hub-endpoint", "http://127.0.0.1:9")
    for model in ((str(tiny_model),), ("sluice/tiny", *offline)):
        installation.add_worker("vllm", "--model", *model, "--max-num-seqs", "16", "--max-model-len", "2048")
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
