"""Tells those who asked for it that their jobs have ended, and tidies up after jobs whose results have expired."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gateway.core.jobs import JobView
from gateway.errors import StoreUnavailable
from gateway.ports.jobs import DueWebhook, JobStore
from gateway.serve.job_archive import JobArchive
from gateway.serve.loops import repeat
from gateway.serve.webhooks import Webhooks

AT_ONCE_MAX = 64  # messages of one pool on their way from here
SWEEP_S = 60.0


class Messenger:
    """
    Sends the webhooks that are due, of any gateway's jobs. *ticket* makes what they say.

    A message may arrive twice, as its sender may die before it notes the first: `webhook-id` tells.
    """

    def __init__(
        self,
        store: JobStore,
        archive: JobArchive,
        webhooks: Webhooks,
        ticket: Callable[[JobView], dict[str, Any]],
        pools: Callable[[], Sequence[str]],
        poll_s: float,
    ) -> None:
        self._store = store
        self._archive = archive
        self._webhooks = webhooks
        self._ticket = ticket
        self._pools = pools
        self._poll_s = poll_s
        self._has_news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to send and to sweep."""
        self._tasks = [
            asyncio.create_task(repeat("send_webhooks", self._poll_s, self._send_due, self._has_news)),
            asyncio.create_task(repeat("sweep_jobs", SWEEP_S, self._sweep)),
        ]

    def wake(self) -> None:
        """Look for messages at once: a job has just ended here."""
        self._has_news.set()

    async def aclose(self) -> None:
        """Stop; what was not told is told by another gateway, or after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._webhooks.aclose()

    async def _send_due(self) -> None:
        for pool in self._pools():
            while due := await self._store.due_webhooks(pool, AT_ONCE_MAX):
                await asyncio.gather(*(self._send(pool, message) for message in due))

    async def _send(self, pool: str, due: DueWebhook) -> None:
        retry_in_s = await self._webhooks.send(due, self._ticket(due.view))
        with suppress(StoreUnavailable):  # then it is due again soon
            await self._store.settle_webhook(pool, due.view.id, retry_in_s)

    async def _sweep(self) -> None:
        await self._archive.sweep()
