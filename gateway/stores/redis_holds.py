"""Holds that several gateways share: in Redis, by scripts, and with this gateway's share of all while Redis is away."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import structlog

from gateway.core.hold_refusals import budget_unavailable
from gateway.core.holds import Ask, Base, BudgetAsk, Standings
from gateway.core.usage import Usage
from gateway.errors import StoreUnavailable
from gateway.ports.holds import ReadBases
from gateway.stores.hold_bases import BaseReading, hard_budgets
from gateway.stores.hold_sums import Correction, Hold, OwnSums
from gateway.stores.memory_holds import LocalBook
from gateway.stores.redis_client import RedisClient, redis_answering
from gateway.stores.redis_hold_call import MODEL_TAG, TENANT_TAG, Answered
from gateway.stores.redis_hold_group import HoldGroup

BEATS_PER_LEASE = 3  # two may be lost before anyone takes us for dead
SETTLED_S = 1.5  # after a tag came into being: by then every gateway has stated its sums, one beat (1 s) and one call
SPARE_S = 0.005  # by which a timer may be early against Redis's clock
CALLS_MAX = 32  # at once: each takes a connection
TRIES_MAX = 4  # of one ask: its base may be unknown, and its tag young
GATEWAYS = "sluice:holds:gateways"
MODEL_PART = "/model"  # what a request holds of its model's limits is a hold of its own, under another hash tag

log = structlog.get_logger()


class RedisHolds:
    """
    `Holds` in Redis. *owner* must be new at every start of a process.

    The keys of a tenant share the hash tag `tenant:<id>`, those of a model's limits `model:<name>`. Each tag has a lane
    (redis_hold_group.py): one call at a time, which states the own sums of what it is about and asks for what has
    gathered. Redis's clock counts.

    **Leases.** A heartbeat every third of *lease_s* states all sums again. An owner that is silent for *lease_s* holds
    nothing any more: after a kill at most lease_s × 4/3 and one call. A gateway that is cut off for longer while its
    requests go on holds nothing meanwhile: what those then cost can pass a hard budget.

    **An emptied Redis.** The call that finds a tag without its mark makes it new; for *settled_s* from then no hard
    budget is let through there, bases are read from the Journal again, and every gateway's heartbeat states its sums.
    What was spent by gateways that died and whose spools nobody has shipped is not known to anybody: that is by how
    much a hard budget can be passed then. Rates start anew.

    **Redis away.** `is_up` is false, the heartbeat goes on as the probe, no request touches Redis.
    """

    def __init__(
        self,
        redis: RedisClient,
        owner: str,
        read_bases: ReadBases,
        *,
        lease_s: float = 3.0,
        store_timeout_s: float = 0.5,
        settled_s: float = SETTLED_S,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.redis = redis
        self.owner = owner
        self.is_up = True
        self.lease_s, self.timeout_s, self.settled_s = lease_s, store_timeout_s, settled_s
        self.sums = OwnSums()
        self.calls = asyncio.Semaphore(CALLS_MAX)
        self._now_ms = now_ms
        self._gateways = 1
        self._groups: dict[str, HoldGroup] = {}
        self._bases = BaseReading(self.sums, read_bases)
        self._local = LocalBook(self.sums, time.time)
        self._beating: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        away = "" if self.is_up else f", Redis is away: 1 of {self._gateways}"
        return f"<RedisHolds {self.owner} [{len(self._groups)} tags{away}] {self.sums!r}>"

    async def hold(self, ask: Ask) -> Standings:
        if ask.id in self.sums.holds:
            return await self.standings(ask)
        try:
            return await self._hold(ask)
        except StoreUnavailable:
            self.release(ask.id)  # of the tenant's, if only the model's could not be asked
            return self._hold_alone(ask)
        except BaseException:
            self.release(ask.id)
            raise

    def extend(self, request_id: str, nano: int, tokens: int) -> bool:
        hold = self.sums.holds.get(request_id)
        if hold is None:
            return True
        if not self.is_up:
            return self._local.extend(request_id, nano, tokens)
        group = self._group(_tenant_tag(hold.ask.tenant))
        lacks = list(self.sums.lacks(request_id, nano, tokens))
        if any(budget.account in group.exhausted for _, budget, _ in lacks):
            return False
        for at, _, more in lacks:
            self.sums.add(request_id, at, more)
        if lacks:
            group.note(hold.ask)
        return True

    def settle(self, request_id: str, usage: Usage, nano: int, budgets: Sequence[BudgetAsk] = ()) -> None:
        self._tell(*self.sums.settle(request_id, usage, nano, budgets))
        self._tell(*self.sums.settle(request_id + MODEL_PART, usage, nano, ()))
        for budget in budgets:
            self._group(_tenant_tag(budget.tenant)).note(Ask(id=request_id, tenant=budget.tenant, budgets=(budget,)))

    def release(self, request_id: str) -> None:
        self._tell(*self.sums.release(request_id))
        self._tell(*self.sums.release(request_id + MODEL_PART))

    async def post(self, bases: Sequence[Base], shipped: Collection[str]) -> None:
        self.sums.post(bases, shipped)
        for base in bases:
            self._group(_tenant_tag(base.tenant)).note_base(base.account)

    async def forget(self, owner: str, tenants: Collection[str]) -> None:
        for tenant in tenants:
            self._group(_tenant_tag(tenant)).forget(owner)

    async def standings(self, asks: Ask) -> Standings:
        if self._bases.lacks(asks):
            await self._bases.make_known(asks)
        try:
            looks = [group.ask(part, is_look=True) for group, part in self._parts(asks)]
            return _joined(asks, await asyncio.gather(*looks))
        except StoreUnavailable:
            return self._local.standings(asks, self._gateways, is_shared=False)

    async def start(self) -> None:
        await self._beat()
        self._beating = asyncio.create_task(self._keep_beating(), name="holds_beat")

    async def aclose(self) -> None:
        if self._beating:
            self._beating.cancel()
            await asyncio.wait({self._beating})
        if self.is_up:
            await asyncio.gather(*(group.aclose() for group in self._groups.values()))
            with suppress(StoreUnavailable):
                async with redis_answering(self.timeout_s):
                    await self.redis.zrem(GATEWAYS, self.owner)

    def note_up(self, *, is_up: bool, reason: str = "") -> None:
        """Hear from a lane or the heartbeat whether Redis answered."""
        if is_up == self.is_up:
            return
        self.is_up = is_up
        if is_up:
            log.info("holds_shared_again")
            for group in self._groups.values():
                group.beat()
        else:
            log.warning("holds_store_lost", reason=reason, gateways=self._gateways)

    async def _hold(self, ask: Ask) -> Standings:
        answers = []
        for group, part in self._parts(ask):
            answers.append(await self._decided(group, part))
            answers[-1].verdict.check(self._now_ms())
        return _joined(ask, answers)

    async def _decided(self, group: HoldGroup, part: Ask) -> Answered:
        """Have *part* decided, once its bases are known and its tag is old enough."""
        is_blind = False
        for _ in range(TRIES_MAX):
            answered = await group.ask(part, is_blind=is_blind)
            if answered.is_unknown:
                await self._bases.make_known(part)
                is_blind = self._bases.lacks(part)  # the Journal is away: for soft budgets alone
            elif answered.young_s:
                born_s = asyncio.get_running_loop().time() + answered.young_s - self.settled_s
                await self._bases.make_known(part, since_s=born_s)
                await asyncio.sleep(answered.young_s + SPARE_S)
            else:
                return answered
        raise budget_unavailable(hard_budgets(part) or part.budgets, "Redis was emptied again and again")

    def _hold_alone(self, ask: Ask) -> Standings:
        """Decide by this gateway's share; a hard budget cannot be shared out."""
        if hard := hard_budgets(ask):
            raise budget_unavailable(hard, "Redis does not answer")
        standings = self._local.take(ask, share=self._gateways, is_charged=False).check(self._now_ms())
        for tag, part in _by_tag(ask):
            self._group(tag).note(part)  # told when Redis is back
        return standings

    def _parts(self, ask: Ask) -> list[tuple[HoldGroup, Ask]]:
        """Split *ask* by hash tags: what is the tenant's first, so that its refusals never touch a model's limits."""
        return [(self._group(tag), part) for tag, part in _by_tag(ask)]

    def _tell(self, hold: Hold | None, corrections: list[Correction]) -> None:
        """Have Redis told what a hold's end changed; what began while it was away is corrected here."""
        if hold is None:
            return
        if not hold.is_charged:
            self._local.correct(corrections, self._gateways)
            corrections = []
        for tag, ask in _by_tag(hold.ask):
            limits = {limit.id for limit in ask.limits}
            self._group(tag).note(ask, [each for each in corrections if each.limit.id in limits])

    def _group(self, tag: str) -> HoldGroup:
        group = self._groups.get(tag)
        if group is None:
            group = self._groups[tag] = HoldGroup(self, tag)
        return group

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self.lease_s / BEATS_PER_LEASE)
            try:
                await self._beat()
            except Exception:  # a loop that everything else relies on must not end by one bad round
                log.exception("holds_beat_failed")

    async def _beat(self) -> None:
        now_ms = self._now_ms()
        oldest_ms = now_ms - int(2 * self.lease_s * 1000)
        try:
            async with redis_answering(self.timeout_s), self.redis.pipeline(transaction=False) as pipeline:
                pipeline.zadd(GATEWAYS, {self.owner: now_ms})
                pipeline.zremrangebyscore(GATEWAYS, "-inf", oldest_ms)
                pipeline.zcard(GATEWAYS)
                said = await pipeline.execute()
        except StoreUnavailable as error:
            self.note_up(is_up=False, reason=error.reason)
            return
        self._gateways = max(1, int(said[-1]))
        self.note_up(is_up=True)
        for tag, group in list(self._groups.items()):
            if group.is_idle:
                del self._groups[tag]
            else:
                group.beat()


def _tenant_tag(tenant: str) -> str:
    return TENANT_TAG + tenant


def _model_tag(model: str) -> str:
    return MODEL_TAG + model


def _by_tag(ask: Ask) -> list[tuple[str, Ask]]:
    """Split *ask* by hash tags: the tenant's part under its own id, then those of models under an id of theirs."""
    own = tuple(limit for limit in ask.limits if limit.tenant)
    parts = [(_tenant_tag(ask.tenant), Ask(id=ask.id, tenant=ask.tenant, limits=own, budgets=ask.budgets))]
    for model in dict.fromkeys(limit.subject for limit in ask.limits if not limit.tenant):
        of_model = tuple(limit for limit in ask.limits if not limit.tenant and limit.subject == model)
        parts.append((_model_tag(model), Ask(id=ask.id + MODEL_PART, tenant="", limits=of_model)))
    return parts if own or ask.budgets else parts[1:]


def _joined(ask: Ask, answers: Sequence[Answered]) -> Standings:
    standings = [answered.verdict.standings for answered in answers]
    limits = {standing.ask.id: standing for each in standings for standing in each.limits}
    budgets = tuple(standing for each in standings for standing in each.budgets)
    return Standings(tuple(limits[limit.id] for limit in ask.limits), budgets)
