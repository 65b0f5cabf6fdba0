"""One pool's line in Redis, as one gateway speaks of it: the verbs of `lua/`, one call each, and their answers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.eta import PoolCounts
from gateway.core.scheduling import RESERVED_PERCENT, LineBounds, Ticket
from gateway.stores.redis_client import RedisClient, Script, drop_idle_connections
from gateway.stores.redis_sight import AFTER_NUL, NUL, Sight, entry_of, ticket_of

PAGE = 10_000  # entries of the line per look: some 5 ms of Redis's time

_KEYS = (
    *("tickets", "waiting", "rounds", "idle", "standings", "floors"),
    *("owned", "owners", "epochs", "books"),
)
_VERBS = {verb: Script("pool", "turns", "line", "credit", verb) for verb in ("claim", "sync", "retire")}
_LOOK = Script("pool", "look")
_RESERVES = " ".join(str(percent) for _, percent in sorted(RESERVED_PERCENT.items()))
_IN_LINE = "w"
_BOUNDED, _UNBOUNDED = "b", "u"

Correction = tuple[int, str, str, int]  # class, tenant, user, and what to charge them more


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """
    What a gateway says of itself in every call.

    *slots* is its word on the pool's, None if it has none. Of its credit it has *used* so many, has given back so many
    in all, and *wanted* more. *corrections* are applied once, by their number *batch*.
    """

    slots: int | None = None
    used: int = 0
    given_back: int = 0
    wanted: int = 0
    batch: int = 0
    corrections: Sequence[Correction] = ()


NO_COUNTS = PoolCounts()


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What a call brought: what became of the caller's own tickets, what all gateways have together, and the credit.

    *started* found a free slot and nobody waiting, *granted* had waited; *unknown* were claimed as waiting, and Redis
    does not know them; *line_full* and *share_full* were refused.
    """

    started: Sequence[str] = ()
    granted: Sequence[str] = ()
    unknown: Sequence[str] = ()
    line_full: Sequence[str] = ()
    share_full: Sequence[str] = ()
    pool: PoolCounts = NO_COUNTS
    gateways: int = 1
    lease: int = 0


class RedisLine:
    """
    The line as *owner* sees it. Every call belongs to an epoch of the owner, which a claim begins.

    A call gives None if Redis knows of another epoch: it was emptied, or the owner was reaped. Then only a claim helps.
    Raises what redis-py raises, and sets no limit on time.
    """

    def __init__(self, redis: RedisClient, pool: str, owner: str, *, lease_s: float, bounds: LineBounds) -> None:
        self.owner = owner
        self._redis = redis
        self._lease_ms = int(lease_s * 1000)
        self._bounds = bounds
        self._keys = _keys(pool)
        self._epoch = 0

    async def claim(self, books: Books, in_flight: Collection[Ticket], waiting: Collection[str]) -> Answer | None:
        """Begin an epoch: have Redis hold exactly these tickets for the owner; it tells those it cannot know."""
        self._epoch += 1
        return await self._call("claim", books, len(in_flight), *map(entry_of, in_flight), *waiting)

    async def sync(
        self, books: Books, leaving: Sequence[str] = (), entering: Sequence[tuple[Ticket, bool]] = ()
    ) -> Answer | None:
        """
        Give back places in line and slots, then put tickets in line; renew the lease, reap the dead.

        A ticket comes with whether it is bounded: one that had its place before is not. Those that are neither started
        nor granted nor refused wait. Idempotent by ticket id.
        """
        entries = [(_BOUNDED if is_bounded else _UNBOUNDED) + entry_of(ticket) for ticket, is_bounded in entering]
        return await self._call("sync", books, len(leaving), *leaving, *entries)

    async def retire(self) -> None:
        """Give back everything and be no owner any more."""
        await self._run("retire", Books())

    async def hear(self, within_s: float) -> list[str] | None:
        """
        Wait for tickets of ours that other owners' calls granted; None if there is nothing to hear *within_s*.

        An empty list says that somebody waits: credit that is not used is to be given back.
        """
        popped = await self._redis.blpop([f"{self._keys[0]}:wake:{self.owner}"], timeout=within_s)
        if not popped:
            return None
        epoch, *ticket_ids = str(popped[1]).split()
        return ticket_ids if int(epoch) == self._epoch else None  # the claim of a newer epoch told what came of them

    async def look(self) -> Sight:
        """Read the whole line, in pages; what changes between two of them is in one or the other."""
        sight = Sight()
        while True:
            args = (PAGE, sight.entries[-1] if sight.entries else "", sight.rounds[-1] if sight.rounds else "")
            granted, owed, entries, rounds = await _LOOK.run(self._redis, self._keys, args)
            sight.add(granted, owed, entries.split(AFTER_NUL), rounds.split(AFTER_NUL))
            if entries.count(AFTER_NUL) < PAGE - 1 and rounds.count(AFTER_NUL) < PAGE - 1:
                return sight

    async def find(self, ticket_id: str) -> tuple[Ticket, bool] | None:
        """Look a ticket up, whoever owns it; tell whether it waits."""
        packed = await self._redis.hget(self._keys[1], ticket_id)
        if packed is None:
            return None
        head, _, entry = str(packed).partition(NUL)
        return ticket_of(entry), head.startswith(_IN_LINE)

    async def drop_idle_connections(self) -> None:
        """Have the next call open a connection: one of them died, so others may have and not know it."""
        await drop_idle_connections(self._redis)

    async def _call(self, verb: str, books: Books, *args: str | int) -> Answer | None:
        status, *said = await self._run(verb, books, *args)
        if status == "ok":
            return _answer(*said)
        self._epoch = max(self._epoch, *said)
        return None

    async def _run(self, verb: str, books: Books, *args: str | int) -> list[Any]:
        return await _VERBS[verb].run(self._redis, self._keys, self._words(books, *args))

    def _words(self, books: Books, *args: str | int) -> Sequence[str | int]:
        """What a call says, as lua/credit.lua reads it."""
        word = "" if books.slots is None else books.slots
        header = (self.owner, self._epoch, self._lease_ms, _RESERVES, word, books.used, books.given_back, books.wanted)
        corrections = [field for correction in books.corrections for field in correction]
        bounds = self._bounds.waiting_max, self._bounds.of_tenant_max
        return (*header, *bounds, books.batch, len(books.corrections), *corrections, *args)


def _answer(*said: Any) -> Answer:
    started, granted, unknown, line_full, share_full, in_flight, waiting, slots, total, completed, gateways, lease = (
        said
    )
    pool = PoolCounts(in_flight=in_flight, waiting=waiting, slots=slots, granted=total, completed=completed)
    return Answer(started, granted, unknown, line_full, share_full, pool, gateways, lease)


def _keys(pool: str) -> tuple[str, ...]:
    """The keys of a pool, as lua/pool.lua lists them; the braces keep them together in a Redis Cluster."""
    prefix = f"sluice:{{{pool}}}:line"
    return (prefix, *(f"{prefix}:{name}" for name in _KEYS))
