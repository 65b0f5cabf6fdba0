"""The looks that a gateway takes at a line in Redis."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.core.scheduling import Line, Ticket
from gateway.errors import StoreUnavailable
from gateway.ports.queue import Whereabouts
from gateway.stores.lookout import Lookout
from gateway.stores.redis_client import redis_answering
from gateway.stores.redis_line import RedisLine

TIMEOUT_S = 2.0  # for a line of megabytes; nobody waits for it
CURIOSITY_S = 15.0  # how long a line where none of ours wait is looked at after someone asked for another's ticket

log = structlog.get_logger()


class RedisLooks:
    """Reads the whole line, plays it forward beside the one in Redis, and lets *lookout* know."""

    def __init__(self, line: RedisLine, lookout: Lookout) -> None:
        self._line = line
        self._lookout = lookout
        self._known: dict[str, Ticket] = {}
        self._asked_s: float | None = None

    async def keep_looking(self, look: Callable[[], Awaitable[None]], is_needed: Callable[[], bool]) -> None:
        """Have *look* called once in a while as long as it *is_needed*, or someone asked for another's ticket."""
        while True:
            await asyncio.sleep(self._lookout.pause_s)
            if is_needed() or (self._asked_s is not None and _now_s() - self._asked_s < CURIOSITY_S):
                try:
                    await look()
                except StoreUnavailable as error:
                    log.warning("line_not_seen", reason=error.reason)
                except Exception:  # the looks must outlive their bugs: places and waits come from them
                    log.exception("look_failed")

    async def look(self) -> None:
        """Find out where everyone stands. Raises StoreUnavailable."""
        async with redis_answering(TIMEOUT_S):
            sight = await self._line.look()
        line = Line()
        await self._lookout.sliced(sight.restore(line, self._known))
        await self._lookout.look(iter(line.next, None), sight.granted)

    async def find(self, ticket_id: str) -> Whereabouts | None:
        """Find a ticket of any gateway. Raises what redis-py raises."""
        self._asked_s = _now_s()
        found = await self._line.find(ticket_id)
        if found is None:
            return None
        ticket, is_waiting = found
        return Whereabouts(ticket.tenant, self._lookout.place(ticket_id) if is_waiting else None, is_waiting)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
