"""What a job cost is told with its result, and afterwards under the id of its ticket."""

import pytest

from gateway.composition import now_ms
from tests.jobs.conftest import BODY
from tests.servers.prices import declare, version

pytestmark = pytest.mark.redis


async def test_a_jobs_result_says_its_cost_and_its_ticket_has_a_receipt(start_lane):
    async with start_lane() as (path, client):
        await declare(path, version())
        ticket = await client.ticket(BODY)
        later_ms = now_ms() + 1
        await declare(path, version(to_ms=later_ms), version("price_2", from_ms=later_ms))
        await client.until(ticket, "completed")
        result = await client.result(ticket)
        receipt = (await client.http.get(f"/v1/usage/{ticket['id']}")).json()
        event = (await path.events())[ticket["id"]]
    assert event["price"] == "price_1", "the price is that of the moment it was submitted, whenever it runs"
    assert int(result.headers["x-sluice-cost-nano"]) == event["cost_nano"] == receipt["cost_nano"] > 0
    assert result.headers["x-sluice-price"] == receipt["price"] == event["price"]
    assert receipt["id"] == ticket["id"]
