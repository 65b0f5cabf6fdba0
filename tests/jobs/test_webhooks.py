"""Who asked to be told is told: signed, again after a failure, and never at an address that is not public."""

import base64
import hashlib
import hmac
import json
import time

import pytest

from gateway.core.jobs import JobState, JobView
from gateway.core.webhooks import is_public, signature, tenant_secret
from gateway.ports.jobs import DueWebhook
from gateway.serve.webhooks import WebhookRules, Webhooks
from tests.jobs.conftest import BODY
from tests.jobs.receivers import certified, receiver
from tests.waiting import until

pytestmark = pytest.mark.redis

NOW_MS = 1_700_000_000_000
MASTER = "a master secret of the installation"
OPEN = {
    "webhook_secret": MASTER,
    "allows_http_webhooks": True,
    "allows_private_webhooks": True,
    "webhook_pause_s": 0.05,
}


def is_signed(message, secret: str) -> bool:
    """Verify as the Standard Webhooks specification tells receivers to; shares no code with the sender."""
    assert secret.startswith("whsec_")
    signed = b".".join(
        (message.headers["webhook-id"].encode(), message.headers["webhook-timestamp"].encode(), message.body)
    )
    expected = base64.b64encode(hmac.new(base64.b64decode(secret[6:]), signed, hashlib.sha256).digest()).decode()
    versions = [entry.split(",", 1) for entry in message.headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(text, expected) for version, text in versions)


def test_the_signature_is_that_of_the_specifications_own_example():
    """From the reference implementations' tests of Standard Webhooks."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected


async def test_the_end_of_a_job_is_told_signed_and_without_the_answer(start_lane):
    async with receiver() as told, start_lane(jobs=OPEN) as (_, client):
        ticket = await client.ticket(x_webhook_url=f"{told.url}/hook?x=1")
        await until(lambda: told.messages)
        [message] = told.messages
        final = await client.status(ticket)
    assert json.loads(message.body) == final
    assert final["status"] == "completed"
    assert message.path == "/hook?x=1"
    assert message.headers["host"] == told.url.removeprefix("http://")
    assert is_signed(message, tenant_secret(MASTER, "acme"))
    assert not is_signed(message, tenant_secret(MASTER, "other"))
    assert abs(int(message.headers["webhook-timestamp"]) - time.time()) < 60


async def test_a_receiver_that_fails_is_told_again_under_the_same_id_until_it_takes_it(start_lane):
    async with receiver(500, 503, 302) as told, start_lane(jobs=OPEN) as (_, client):
        await client.ticket(x_webhook_url=told.url)
        await until(lambda: len(told.messages) == 4)
        metrics = (await client.http.get("/metrics")).text
    assert len({message.headers["webhook-id"] for message in told.messages}) == 1
    assert {message.path for message in told.messages} == {"/"}, "a redirect was followed"
    assert all(is_signed(message, tenant_secret(MASTER, "acme")) for message in told.messages)
    assert 'sluice_webhooks_total{outcome="retried"} 3.0' in metrics


@pytest.mark.parametrize(("statuses", "options"), [((500,), {"webhook_retry_s": 0}), ((410,), {})])
async def test_a_receiver_that_never_takes_it_or_wants_none_is_given_up(start_lane, statuses, options):
    async with receiver(*statuses) as told, start_lane(jobs=OPEN | options) as (path, client):
        await client.ticket(x_webhook_url=told.url)
        await until(lambda: told.messages)
        await until(lambda: given_up(path) == 1)
        assert len(told.messages) == 1


def given_up(path) -> float:
    return path.gateway._metrics._webhooks.labels("given_up")._value.get()


async def test_a_cancelled_and_a_failed_job_are_told_of_too(start_lane):
    async with receiver() as told, start_lane(count=1, jobs=OPEN) as (_, client):
        await client.ticket(BODY | {"max_tokens": 10**9}, x_webhook_url=told.url)
        await until(lambda: len(told.messages) == 1)
        ticket = await client.ticket(BODY | {"max_tokens": 4000}, x_webhook_url=told.url)
        await client.http.delete(ticket["status_url"])
        await until(lambda: len(told.messages) == 2)
    assert [json.loads(message.body)["status"] for message in told.messages] == ["failed", "cancelled"]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "example.com",
        "https://",
        "https://user:word@example.com/",
        "https://127.0.0.1/",
        "https://localhost:8443/hook",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://no-such-host.invalid/",
        "https://example.com:99999/",
        "https://example.com/" + "x" * 2048,
    ],
)
async def test_an_address_that_cannot_be_told_is_refused_when_the_job_is_submitted(start_lane, url):
    async with start_lane(count=1, jobs={"webhook_secret": MASTER}) as (_, client):
        answer = await client.submit(x_webhook_url=url)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "X-Webhook-Url"


@pytest.mark.parametrize(("certified_name", "is_told"), [("localhost", True), ("elsewhere.example", False)])
async def test_the_certificate_must_be_that_of_the_name_though_the_address_is_connected_to(
    tmp_path, monkeypatch, certified_name, is_told
):
    tls, trusted = certified(tmp_path, certified_name)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    rules = WebhookRules(secret=MASTER, allows_http=False, allows_private=True, timeout_s=5, pause_s=1, retry_s=60)
    async with receiver(tls=tls) as told:
        webhooks = Webhooks(rules, lambda: NOW_MS, lambda _: None)
        due = DueWebhook(ended_job(), told.url.replace("127.0.0.1", "localhost"), attempt=1)
        assert (await webhooks.send(due, {}) is None) is is_told
        await webhooks.aclose()
    assert len(told.messages) == is_told


def ended_job() -> JobView:
    return JobView(id="req_1", tenant="acme", state=JobState.COMPLETED, arrived_ms=NOW_MS, finished_ms=NOW_MS)


async def test_a_name_that_leads_to_this_machine_by_the_time_it_is_told_is_not_connected_to():
    """What was accepted when the job came may lead elsewhere now: each attempt resolves and checks the name anew."""
    outcomes = []
    rules = WebhookRules(secret=MASTER, allows_http=True, allows_private=False, timeout_s=5, pause_s=1, retry_s=60)
    async with receiver() as told:
        webhooks = Webhooks(rules, lambda: NOW_MS, outcomes.append)
        due = DueWebhook(ended_job(), told.url.replace("127.0.0.1", "localhost"), attempt=1)
        assert await webhooks.send(due, {}) == pytest.approx(1, rel=0.3)
        await webhooks.aclose()
    assert not told.messages
    assert outcomes == ["retried"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_only_addresses_of_the_public_internet_are_public(address, expected):
    assert is_public(address) is expected
