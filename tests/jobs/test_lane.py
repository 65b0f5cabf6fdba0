"""The async lane from a client's side: a ticket at once, the answer later, as often as it likes, billed once."""

import asyncio

import pytest

from tests.jobs.conftest import BODY, client_of
from tests.waiting import until

pytestmark = pytest.mark.redis


async def test_a_request_that_prefers_it_gets_a_ticket_at_once_and_its_answer_later(start_lane):
    async with start_lane() as (path, client):
        answer = await client.submit()
        ticket = answer.json()
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "respond-async"
        assert answer.headers["location"] == ticket["status_url"] == f"/v1/queue/{ticket['id']}"
        assert answer.headers["x-request-id"] == ticket["id"]
        assert (ticket["object"], ticket["status"]) == ("queue.ticket", "queued")
        await client.until(ticket, "completed")
        results = [await client.result(ticket) for _ in range(3)]
        events = await path.events()
    assert {result.content for result in results} == {results[0].content}
    usage = results[0].json()["usage"]
    assert results[0].status_code == 200
    assert results[0].headers["x-sluice-worker"] in {"w0", "w1"}
    assert set(events) == {ticket["id"]}, "the job's event is the only one"
    event = events[ticket["id"]]
    assert (event["completion_tokens"], event["prompt_tokens"]) == (20, usage["prompt_tokens"])
    assert (event["outcome"], event["flag"], event["attempts"]) == ("completed", "exact", 1)
