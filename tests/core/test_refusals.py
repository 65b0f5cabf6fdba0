"""What those are told who cannot be served."""

import json

import pytest

from gateway.core.directory import ServiceClass
from gateway.core.outcome import Outcome
from gateway.core.refusals import line_full, no_worker, share_full, wait_too_long, waited_too_long
from gateway.core.scheduling import Ticket

TICKET = Ticket(id="req_1", tenant="acme", service_class=ServiceClass.STANDARD)


def test_a_full_line_names_the_pool_the_limit_and_when_to_come_again():
    refusal = line_full("qwen", 500, 11.2)
    assert refusal.outcome is Outcome.QUEUE_FULL
    assert refusal.message == "The line of the pool 'qwen' is full: 500 requests wait, and no more may. Retry in 12 s."
    assert (refusal.retry_after_s, refusal.should_retry) == (12, None)
    assert refusal.limit == {
        "name": "queue_full",
        "scope": "pool",
        "of": "qwen",
        "current": 500,
        "allowed": 500,
        "clears_in_s": 11.2,
    }


def test_a_tenant_that_fills_its_share_is_told_so():
    refusal = share_full("qwen", "acme", 250, 5.0)
    assert refusal.code == "tenant_queue_full"
    assert "'acme'" in refusal.message
    assert refusal.limit["scope"] == "tenant"


def test_a_wait_beyond_what_clients_obey_is_no_invitation_to_retry():
    refusal = wait_too_long("qwen", TICKET, eta_s=400.0, allowed_s=60.0)
    assert refusal.outcome is Outcome.WAIT_TOO_LONG
    assert (refusal.retry_after_s, refusal.should_retry) == (None, False)
    assert json.loads(refusal.body())["error"]["limit"]["eta_s"] == 400.0
    assert "340 s" in refusal.message


def test_a_wait_that_is_soon_short_enough_is_an_invitation_to_retry_then():
    refusal = wait_too_long("qwen", TICKET, eta_s=70.0, allowed_s=60.0)
    assert (refusal.retry_after_s, refusal.should_retry) == (10, None)


@pytest.mark.parametrize("drain_s", [None, 0.0, 0.4, 59.5, 60.0])
def test_retry_after_is_always_within_what_clients_obey(drain_s):
    assert 1 <= line_full("qwen", 1, drain_s).retry_after_s <= 60


def test_one_whose_time_is_over_is_told_how_long_it_waited():
    refusal = waited_too_long("qwen", TICKET, 30.0)
    assert "within 30 s" in refusal.message
    assert refusal.outcome.status == 429


def test_a_pool_without_a_worker_is_retried_soon_or_when_one_is_expected():
    held = no_worker("qwen", ServiceClass.STANDARD, 300.0, None)
    assert (held.outcome.status, held.retry_after_s, held.should_retry) == (503, 60, None)
    assert "within 300 s" in held.message
    starting = no_worker("qwen", ServiceClass.INTERACTIVE, 120.0, 400.0)
    assert (starting.retry_after_s, starting.should_retry, starting.limit["eta_s"]) == (None, False, 400.0)
