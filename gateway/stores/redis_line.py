"""One pool's line in Redis, as one gateway speaks of it: the verbs of `lua/`, one call each, and their answers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import Ticket
from gateway.stores.redis_client import Script

UNBOUNDED = -1  # in place of how many may wait: the ticket had its place before

_VERBS = {verb: Script("line", verb) for verb in ("claim", "enter", "leave", "sync", "retire")}


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What a call brought: the caller's own tickets that were granted or refused, then what all gateways have together.

    *granted_total* counts from when the pool's line was made.
    """

    granted: Sequence[str] = ()
    refused: Sequence[str] = ()
    in_flight: int = 0
    waiting: int = 0
    slots: int = 0
    granted_total: int = 0
    gateways: int = 1


Place = tuple[Ticket, int]  # a ticket that waits or wants to, and how many may wait before it is refused


class RedisLine:
    """
    The line as *owner* sees it. Every call belongs to an epoch of the owner, which a claim begins.

    A call gives None if Redis knows of another epoch: it was emptied, or the owner was reaped. Then only a claim helps.
    Raises what redis-py raises, and sets no limit on time.
    """

    def __init__(self, redis: Redis, pool: str, owner: str, lease_s: float) -> None:
        self.owner = owner
        self._redis = redis
        self._lease_ms = int(lease_s * 1000)
        self._keys = _keys(pool)
        self._epoch = 0

    async def claim(self, slots: int | None, in_flight: Collection[Ticket], waiting: Sequence[Place]) -> Answer | None:
        """Begin an epoch: have Redis hold exactly these tickets for the owner."""
        self._epoch += 1
        held = [field for ticket in in_flight for field in _fields(ticket)]
        return await self._call("claim", _word(slots), len(in_flight), *held, *_place_fields(waiting))

    async def enter(self, places: Sequence[Place]) -> Answer | None:
        """Put tickets in line; those neither granted nor refused wait. Idempotent by ticket id."""
        return await self._call("enter", *_place_fields(places))

    async def leave(self, ticket_ids: Sequence[str]) -> Answer | None:
        """Give back places in line and slots. Idempotent by ticket id."""
        return await self._call("leave", *ticket_ids)

    async def sync(self, slots: int | None) -> Answer | None:
        """Renew the owner's lease and reap the dead; *slots* is the owner's word on them, None if it has none."""
        return await self._call("sync", _word(slots))

    async def retire(self) -> Answer | None:
        """Give back everything and be no owner any more."""
        return await self._call("retire")

    async def hear(self, within_s: float) -> list[str]:
        """Wait for tickets of ours that other owners' calls granted; give none if there are none *within_s*."""
        popped = await self._redis.blpop([f"{self._keys[0]}:wake:{self.owner}"], timeout=within_s)
        if not popped:
            return []
        epoch, *ticket_ids = str(popped[1]).split()
        return ticket_ids if int(epoch) == self._epoch else []  # the claim of a newer epoch told what came of them

    async def drop_idle_connections(self) -> None:
        """Have the next call open a connection: one of them died, so others may have and not know it."""
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def _call(self, verb: str, *args: str | int) -> Answer | None:
        header = (self.owner, self._epoch, self._lease_ms)
        status, *said = await _VERBS[verb].run(self._redis, self._keys, (*header, *args))
        if status == "ok":
            return Answer(*said)
        self._epoch = max(self._epoch, *said)
        return None


def _keys(pool: str) -> tuple[str, ...]:
    """The keys of a pool, as lua/line.lua lists them; the braces keep them together in a Redis Cluster."""
    prefix = f"sluice:{{{pool}}}"
    names = ("tickets", "waiting", "owned", "owners", "epochs")
    rounds = (f"{kind}:{c.label}" for kind in ("round", "idle") for c in ServiceClass)
    return (prefix, *(f"{prefix}:{name}" for name in (*names, *rounds)))


def _word(slots: int | None) -> str | int:
    return "" if slots is None else slots


def _place_fields(places: Sequence[Place]) -> list[str | int]:
    return [field for ticket, waiting_max in places for field in _fields(ticket, waiting_max)]


def _fields(ticket: Ticket, waiting_max: int = UNBOUNDED) -> Sequence[str | int]:
    """The fields of a ticket, as lua/line.lua reads them."""
    return ticket.id, int(ticket.service_class), ticket.tenant, 1, waiting_max
