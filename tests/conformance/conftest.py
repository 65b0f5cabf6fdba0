from contextlib import AsyncExitStack

import pytest

from tests.conformance.queues import open_queue


@pytest.fixture(
    params=["memory", pytest.param("redis", marks=pytest.mark.redis), pytest.param("fallback", marks=pytest.mark.redis)]
)
def queue_kind(request):
    return request.param


@pytest.fixture
async def make_queue(request, queue_kind):
    """Make queues of each kind; at the end each must be empty."""
    url = None if queue_kind == "memory" else request.getfixturevalue("redis_url")
    async with AsyncExitStack() as stack:

        async def make(**options):
            return await stack.enter_async_context(open_queue(queue_kind, url, **options))

        yield make
