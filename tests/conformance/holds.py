"""Holds of every kind, what they are asked, and a Journal of their bases."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

from gateway.core.hold_refusals import OverLimit
from gateway.core.holds import Ask, Base, BudgetAsk, LimitAsk
from gateway.core.usage import Usage
from gateway.errors import StoreUnavailable
from gateway.stores.memory_holds import MemoryHolds
from gateway.stores.redis_client import connect
from gateway.stores.redis_holds import RedisHolds

TENANT = "acme"
_owners = count()
_requests = count()


class Journal:
    """What has been spent, as SQL would say; *is_away* makes it fail."""

    def __init__(self) -> None:
        self.bases: dict[str, Base] = {}
        self.is_away = False
        self.reads = 0

    async def read(self, asks):
        self.reads += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailable("database", "it is away")
        return [self.bases.get(ask.account, Base(ask.tenant, ask.account, 0, 0)) for ask in asks]

    def spend(self, account: str, amount: int) -> Base:
        """Commit that so much more was spent."""
        known = self.bases.get(account, Base(TENANT, account, 0, 0))
        self.bases[account] = Base(TENANT, account, known.version + 1, known.spent + amount)
        return self.bases[account]


@asynccontextmanager
async def open_holds(kind: str, url: str | None, journal: Journal | None = None, **options):
    """Open started holds of *kind* (memory, redis)."""
    journal = journal or Journal()
    owner = options.pop("owner", f"gateway-{next(_owners)}")
    if kind == "memory":
        redis, holds = None, MemoryHolds(owner, journal.read, **options)
    else:
        redis = connect(url)
        holds = RedisHolds(redis, owner, journal.read, **{"settled_s": 0.0, "store_timeout_s": 5.0, **options})
    await holds.start()
    try:
        yield holds
    finally:
        await holds.aclose()
        if redis:
            await redis.aclose()


@asynccontextmanager
async def holds_over(url: str, journal: Journal | None = None, **defaults):
    """Give a maker of holds that share one Redis, as gateways do."""
    journal = journal or Journal()
    async with AsyncExitStack() as stack:

        async def make(**options):
            return await stack.enter_async_context(open_holds("redis", url, journal, **{**defaults, **options}))

        yield make


def limit(metric: str, amount: int, quantity: int = 1, **changes) -> LimitAsk:
    scope = changes.pop("scope", "key")
    fields = {"id": f"lim-{scope}-{metric}", "subject": "k1", "tenant": TENANT, "model": "", **changes}
    return LimitAsk(scope=scope, metric=metric, amount=amount, quantity=quantity, **fields)


def budget(amount: int, quantity: int = 1, *, is_hard: bool = True, kind: str = "money", **changes) -> BudgetAsk:
    fields = {"id": "bud", "account": "bud@0", "scope": "tenant", "subject": TENANT, "tenant": TENANT, **changes}
    rest = {"model": "", "currency": "CNY", "begins_ms": 0, "ends_ms": None} | fields
    return BudgetAsk(kind=kind, amount=amount, quantity=quantity, is_hard=is_hard, **rest)


def ask(*parts: LimitAsk | BudgetAsk, request_id: str | None = None) -> Ask:
    return Ask(
        id=request_id or f"req-{next(_requests)}",
        tenant=TENANT,
        limits=tuple(part for part in parts if isinstance(part, LimitAsk)),
        budgets=tuple(part for part in parts if isinstance(part, BudgetAsk)),
    )


async def passes(holds, one: Ask) -> bool:
    """Try to hold; tell whether it was let in."""
    try:
        await holds.hold(one)
    except OverLimit:
        return False
    return True


def settle(holds, one: Ask, nano: int = 0, usage: Usage = Usage(1, 1)) -> None:  # noqa: B008  a frozen value
    holds.settle(one.id, usage, nano)
