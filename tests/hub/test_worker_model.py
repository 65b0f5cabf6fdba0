"""The model of `sluice worker` and `sluice up` comes through the same code as `sluice models pull`."""

import asyncio

import psutil
import pytest

from tests.hub.conftest import MODEL
from tests.servers.hub_server import small_model
from workers.agent.model import Models, prepare_model
from workers.errors import WorkerError
from workers.hub.client import Hub
from workers.hub.modelscope import resolve


@pytest.fixture
def models(hub, store, tmp_path):
    return Models(tmp_path, str(store.root), Hub(hub.url))


async def test_a_worker_serves_the_pulled_folder_and_needs_no_hub_the_second_time(hub, models, store):
    commit = hub.put(MODEL, small_model(megabytes=0.2))
    folder = await prepare_model(MODEL, models)
    assert folder == str(store.folder(MODEL, commit))
    asked = len(hub.asked)
    assert await prepare_model(f"{MODEL}@{commit}", models) == folder
    assert str(resolve(MODEL, store.root, Hub("http://127.0.0.1:9"))) == folder
    assert len(hub.asked) == asked


async def test_a_worker_that_is_stopped_while_it_downloads_leaves_no_process(hub, models):
    hub.put(MODEL, small_model(megabytes=4))
    hub.faults.chunk_s = 0.05
    preparing = asyncio.ensure_future(prepare_model(MODEL, models))
    assert await asyncio.to_thread(hub.is_serving.wait, 60)
    downloading = [child for child in psutil.Process().children(recursive=True) if _is_ours(child)]
    assert len(downloading) >= 2  # who pulls, and its SDK
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    _, left = await asyncio.to_thread(psutil.wait_procs, downloading, 30)
    assert not left


def _is_ours(process):
    try:
        return any(part.startswith("workers.hub.") for part in process.cmdline())
    except psutil.Error:
        return False


async def test_what_the_hub_refuses_is_the_workers_error(models):
    with pytest.raises(WorkerError, match=r"has no Qwen/Qwen3-Test at revision master \(404\)"):
        await prepare_model(MODEL, models)
    with pytest.raises(WorkerError, match="not a ModelScope id"):
        await prepare_model("./nowhere", models)


@pytest.mark.parametrize("name", ["config.json", "model_index.json", "adapter_config.json"])
async def test_a_folder_with_a_model_a_pipeline_or_an_adapter_is_used_as_it_is(models, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("{}")
    assert await prepare_model(str(tmp_path / "mine"), models) == str(tmp_path / "mine")
