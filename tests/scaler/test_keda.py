"""KEDA's scaler over real gRPC and a real gateway: pushed at once, errors instead of guesses, and no 0 by a restart."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest

from gateway.scaler import externalscaler_pb2 as messages
from gateway.scaler.follow import Follower
from gateway.scaler.keda import METRIC, SERVICE, KedaScaler, make_server
from tests.path.conftest import start_path
from tests.servers.installation import WORKER_TOKEN, Installation
from tests.servers.process import SLUICE, Process, free_port
from tests.servers.sim_engines import start_sim

__all__ = ["start_path", "start_sim"]

ADMIN = "a-token"
SETTINGS = {
    "admin_token": ADMIN,
    "scale": {"workers_min": 0, "workers_max": 4, "idle_s": 0.5, "down_s": 1.0},
}
ENVIRON = {"SLUICE_SCALE__WORKERS_MIN": "0", "SLUICE_SCALE__WORKERS_MAX": "4", "SLUICE_DRAIN_ANNOUNCE_S": "0"}
ENVIRON["SLUICE_ROSTER__LEASE_S"] = "600"
REF = messages.ScaledObjectRef(name="tiny", namespace="models", scalerMetadata={"pool": "tiny"})


class Keda:
    """A client as KEDA is one."""

    def __init__(self, channel):
        of = f"/{SERVICE}/"
        write = messages.ScaledObjectRef.SerializeToString
        self.is_active = channel.unary_unary(of + "IsActive", write, messages.IsActiveResponse.FromString)
        self.stream = channel.unary_stream(of + "StreamIsActive", write, messages.IsActiveResponse.FromString)
        self.spec = channel.unary_unary(of + "GetMetricSpec", write, messages.GetMetricSpecResponse.FromString)
        self._metrics = channel.unary_unary(
            of + "GetMetrics",
            messages.GetMetricsRequest.SerializeToString,
            messages.GetMetricsResponse.FromString,
        )

    async def metric(self, ref=REF) -> float:
        [value] = (await self._metrics(messages.GetMetricsRequest(scaledObjectRef=ref, metricName=METRIC))).metricValues
        assert value.metricValue == value.metricValueFloat
        return value.metricValueFloat

    async def until_metric(self, wanted: int) -> None:
        async with asyncio.timeout(60):
            while await self.metric() != wanted:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def keda_of(*gateways: str, path=None):
    """Run the scaler; at its end *path*, the gateway, ends its long polls, as it does when it drains."""
    follower = Follower(gateways, ADMIN, "keda")
    server, port = make_server(KedaScaler(follower), "127.0.0.1:0")
    await server.start()
    following = asyncio.create_task(follower.run())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Keda(channel)
    finally:
        following.cancel()
        await server.stop(0.1)
        if path:
            path.gateway._scale.let_go()


async def beat(url: str) -> None:
    said = {"pool": "tiny", "models": ["tiny"], "url": "http://127.0.0.1:9", "state": "ready", "max_seqs": 8}
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {WORKER_TOKEN}"}) as http:
        (await http.post("/internal/v1/workers/w0/beat", json=said)).raise_for_status()


async def chat(path):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    async with httpx.AsyncClient(timeout=60) as http:
        return await http.post(
            f"{path.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {path.key}"}
        )


async def until_settled(path):
    async with asyncio.timeout(60):
        while not path.gateway._scale.to_json()["pools"][0]["is_settled"]:
            await asyncio.sleep(0.1)


async def test_a_first_request_is_pushed_and_its_end_too(start_path):
    async with start_path(0, **SETTINGS) as path, keda_of(path.url, path=path) as keda:
        await until_settled(path)
        stream = keda.stream(REF)
        assert not (await stream.read()).result
        assert not (await keda.is_active(REF)).result
        [spec] = (await keda.spec(REF)).metricSpecs
        assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == (METRIC, 1, 1.0)

        asking = asyncio.create_task(chat(path))
        async with asyncio.timeout(30):
            assert (await stream.read()).result
        assert (await keda.is_active(REF)).result
        await keda.until_metric(1)

        asking.cancel()
        async with asyncio.timeout(30):
            assert not (await stream.read()).result
        await keda.until_metric(0)


@pytest.mark.timeout(200)
async def test_a_gateway_that_restarts_lowers_nothing(tmp_path):
    """Not while it is away, and not in its first moments, in which it knows of no worker and of no request."""
    installation = Installation(tmp_path / "home", **ENVIRON)
    port, scaler = free_port(), None
    try:
        gateway = installation.add_gateway()
        await beat(gateway.url)
        argv = [SLUICE, "scale", "serve", "--listen", f"127.0.0.1:{port}", "--gateway", gateway.url]
        scaler = Process("scaler", argv, tmp_path / "scaler.log", installation.environ)
        scaler.spawn()
        scaler.wait_until("listening", lambda: "listening on" in scaler.log.read_text(), 60)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            keda = Keda(channel)
            await keda.until_metric(1)
            assert await asyncio.to_thread(gateway.stop) == 0
            assert await keda.metric() == 1
            starting = asyncio.create_task(asyncio.to_thread(gateway.start))
            while not starting.done():
                assert await keda.metric() == 1
                await asyncio.sleep(0.1)
            await starting
            assert not gateway.workers(), "it knows of none yet"
            for _ in range(20):
                assert await keda.metric() == 1
                await asyncio.sleep(0.1)
        assert scaler.stop() == 0
    finally:
        if scaler and scaler.is_running:
            scaler.kill()
        installation.close()


async def test_with_its_gateway_away_the_last_word_stands_and_before_any_word_it_is_an_error(start_path):
    async with start_path(1, **SETTINGS) as path, keda_of("http://127.0.0.1:9", path.url, path=path) as keda:
        await keda.until_metric(1)
        await path.gateway._scale.aclose()
        assert await keda.metric() == 1
    async with keda_of("http://127.0.0.1:9") as keda:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await keda.metric()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "Nothing certain is known yet of a pool 'tiny'" in refused.value.details()


async def test_a_trigger_without_a_pool_is_told_what_to_set(start_path):
    async with keda_of("http://127.0.0.1:9") as keda:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await keda.is_active(messages.ScaledObjectRef(name="x", namespace="models"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "models/x names no pool. Set metadata.pool" in refused.value.details()
