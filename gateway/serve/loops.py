"""Background work that repeats itself, whatever becomes of one round."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import structlog

from gateway.errors import StoreUnavailable

WAIT_S_MAX = 5.0  # after a store did not answer
_DOUBLINGS_MAX = 8

_Result = TypeVar("_Result")

log = structlog.get_logger()


async def insist(step: Callable[[], Awaitable[_Result]]) -> _Result:
    """Do *step* until the stores it needs answer: what it keeps is too dear to be made again."""
    failures = 0
    while True:
        try:
            return await step()
        except StoreUnavailable as error:
            failures += 1
            if failures == 1:
                log.warning("store_awaited", reason=str(error))
            await asyncio.sleep(min(WAIT_S_MAX, 0.1 * 2 ** min(failures, _DOUBLINGS_MAX)))


async def repeat(
    name: str, every_s: float, step: Callable[[], Awaitable[None]], news: asyncio.Event | None = None
) -> None:
    """Run *step* every *every_s* and when there is *news*; after failures wait longer. The first of a row is logged."""
    news = news or asyncio.Event()
    failures = 0
    while True:
        news.clear()
        try:
            await step()
            failures = 0
        except Exception as error:  # the supervisor of a loop that others rely on
            failures += 1
            if not isinstance(error, StoreUnavailable):
                log.exception("step_failed", step=name)
            elif failures == 1:
                log.warning("step_without_store", step=name, reason=str(error))
        wait_s = every_s if not failures else min(WAIT_S_MAX, every_s * 2 ** min(failures, _DOUBLINGS_MAX))
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await news.wait()
