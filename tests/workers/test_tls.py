"""A worker on another network: its engine shows a certificate, and so does the gateway that it reports to."""

import pytest

from gateway.serve.wire import ConnectionBroken, ConnectionPool
from tests.jobs.receivers import certified
from tests.workers.gateway_ear import GatewayEar
from tests.workers.test_agent import ear, is_ready, start

__all__ = ["ear", "start"]


@pytest.fixture
def certificate(tmp_path):
    context, pem = certified(tmp_path, "localhost")
    return context, pem, pem.with_suffix(".key")


async def test_an_engine_with_a_certificate_is_reached_by_gateways_that_trust_it(start, ear, certificate):
    _, pem, key = certificate
    start(None, "--tls-cert", str(pem), "--tls-key", str(key), "--advertise-host", "localhost")
    url = ear.until(is_ready)["url"]
    assert url.startswith("https://localhost:")

    trusting = ConnectionPool(connect_timeout_s=5, keep_alive_s=4, ca=pem)
    connection = await trusting.connect(url)
    connection.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert await connection.head(10) == 200
    connection.close()
    with pytest.raises(ConnectionBroken, match="certificate"):
        await ConnectionPool(connect_timeout_s=5, keep_alive_s=4).connect(url)


def test_a_gateway_with_a_certificate_hears_of_workers_that_trust_it_alone(start, certificate):
    context, pem, _ = certificate
    ear = GatewayEar(tls=context)
    try:
        start(None, "--ca-file", str(pem), gateways=[ear.url])
        ear.until(is_ready)
    finally:
        ear.close()


def test_a_gateway_that_cannot_be_trusted_hears_nothing_and_the_log_says_so(start, certificate):
    context, _, _ = certificate
    ear = GatewayEar(tls=context)
    try:
        agent = start(gateways=[ear.url])
        agent.until_logged("gateway_trouble")
        assert not ear.beats
    finally:
        ear.close()


def test_a_certificate_without_its_key_is_refused(start, certificate):
    agent = start(None, "--tls-cert", str(certificate[1]))
    assert agent.process.wait(30) == 1
    assert "--tls-cert and --tls-key go together" in agent.log.read_text()
