"""Every home of holds against a model that is too simple to be wrong, over random doings of its requests."""

import asyncio
from dataclasses import dataclass, field
from itertools import count

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.core.usage import Usage
from gateway.stores.memory_holds import MemoryHolds
from gateway.stores.redis_client import connect
from gateway.stores.redis_holds import RedisHolds
from tests.conformance.holds import Journal, ask, budget, limit, passes

AT_ONCE, PER_MINUTE, HARD, SOFT, QUOTA = 4, 10**7, 1000, 600, 500
_tenants = count()


@dataclass
class Request:
    ask: object
    home: int
    held: dict[str, int]


@dataclass
class Model:
    """Sums kept by looking at everything each time."""

    requests: dict[str, Request] = field(default_factory=dict)
    unshipped: dict[str, tuple[int, dict[str, int]]] = field(default_factory=dict)  # id → home, by account
    shipped: dict[str, int] = field(default_factory=dict)

    def held(self, account: str) -> int:
        return sum(request.held.get(account, 0) for request in self.requests.values())

    def spent(self, account: str) -> int:
        return sum(parts.get(account, 0) for _, parts in self.unshipped.values())

    def available(self, amount: int, account: str) -> int:
        return amount - self.shipped.get(account, 0) - self.spent(account) - self.held(account)


class Requests(RuleBasedStateMachine):
    """Requests that come, stream, end, are shipped, at one of several gateways over one store."""

    def __init__(self, url: str | None) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model, self.journal = Model(), Journal()
        self.redis = self.run(self.connected(url)) if url else None
        self.prefix = f"t{next(_tenants)}"
        self.names = count()
        if self.redis:
            self.homes = [RedisHolds(self.redis, owner, self.journal.read, settled_s=0.0, lease_s=60) for owner in "ab"]
        else:
            self.homes = [MemoryHolds("a", self.journal.read)]

    def run(self, work):
        return self.runner.run(work)

    async def connected(self, url):
        return connect(url)

    async def settled(self, holds, name, usage, nano):
        holds.settle(name, usage, nano)

    async def released(self, holds, name):
        holds.release(name)

    def parts(self, hard=1, soft=1, quota=1):
        names = {name: f"{self.prefix}-{name}" for name in ("hard", "soft", "quota")}
        own = {name: {"id": full, "account": f"{full}@0"} for name, full in names.items()}
        return (
            limit("concurrent", AT_ONCE, id=f"{self.prefix}-at-once"),
            limit("tokens", PER_MINUTE, 10, id=f"{self.prefix}-tokens"),
            budget(HARD, hard, **own["hard"]),
            budget(SOFT, soft, is_hard=False, **own["soft"]),
            budget(QUOTA, quota, kind="tokens", **own["quota"]),
        )

    def account(self, name):
        return f"{self.prefix}-{name}@0"

    @rule(home=st.integers(0, 1), hard=st.integers(0, 400), soft=st.integers(0, 400), quota=st.integers(0, 200))
    def come(self, home, hard, soft, quota):
        home %= len(self.homes)
        one = ask(*self.parts(hard, soft, quota), request_id=f"{self.prefix}-{next(self.names)}")
        expected = (
            len(self.model.requests) < AT_ONCE
            and self.model.available(HARD, self.account("hard")) >= hard
            and self.model.available(SOFT, self.account("soft")) > 0
            and self.model.available(QUOTA, self.account("quota")) >= quota
        )
        self.tell_all()
        assert self.run(passes(self.homes[home], one)) == expected
        if expected:
            held = {self.account("hard"): hard, self.account("soft"): soft, self.account("quota"): quota}
            self.model.requests[one.id] = Request(one, home, held)

    @precondition(lambda self: self.model.requests)
    @rule(data=st.data(), nano=st.integers(0, 300), tokens=st.integers(0, 100))
    def end(self, data, nano, tokens):
        name = data.draw(st.sampled_from(sorted(self.model.requests)))
        request = self.model.requests.pop(name)
        self.run(self.settled(self.homes[request.home], name, Usage(tokens, 0), nano))
        parts = {self.account("hard"): nano, self.account("soft"): nano, self.account("quota"): tokens}
        self.model.unshipped[name] = (request.home, parts)

    @precondition(lambda self: self.model.requests)
    @rule(data=st.data())
    def fail(self, data):
        name = data.draw(st.sampled_from(sorted(self.model.requests)))
        self.run(self.released(self.homes[self.model.requests.pop(name).home], name))

    @precondition(lambda self: self.model.unshipped)
    @rule(data=st.data())
    def ship(self, data):
        """One commit of the events of one gateway; every account it touches is posted."""
        name = data.draw(st.sampled_from(sorted(self.model.unshipped)))
        home, parts = self.model.unshipped.pop(name)
        bases = []
        for account, part in parts.items():
            bases.append(self.journal.spend(account, part))
            self.model.shipped[account] = self.model.shipped.get(account, 0) + part
        self.run(self.homes[home].post(bases, [name]))
        if data.draw(st.booleans()):
            self.run(self.homes[home].post(bases, [name]))

    @precondition(lambda self: self.redis)
    @rule()
    def empty_redis(self):
        self.run(self.redis.flushall())

    @invariant()
    def every_home_tells_what_the_model_says(self):
        self.tell_all()
        for holds in self.homes:
            standings = self.run(holds.standings(ask(*self.parts())))
            assert standings.limits[0].used == len(self.model.requests)
            for standing in standings.budgets:
                account = standing.ask.account
                assert standing.held == self.model.held(account)
                assert standing.unshipped == self.model.spent(account)
                assert standing.spent == self.model.shipped.get(account, 0)

    def tell_all(self):
        """Have a heartbeat of each gateway reach Redis, which tells it what has changed, or rebuilds it."""
        if self.redis:
            self.run(self.beat())

    async def beat(self):
        for holds in self.homes:
            for group in holds._groups.values():
                group.beat()
        for holds in self.homes:
            while any(group._task for group in holds._groups.values()):
                await asyncio.sleep(0)
            while any(group._changed for group in holds._groups.values()):
                await asyncio.sleep(0.001)

    def teardown(self):
        for holds in self.homes:
            self.run(holds.aclose())
        if self.redis:
            self.run(self.redis.aclose())
        self.runner.close()


@pytest.mark.parametrize("kind", ["memory", pytest.param("redis", marks=pytest.mark.redis)])
def test_every_home_does_what_the_model_does(kind, request):
    url = None if kind == "memory" else request.getfixturevalue("redis_url")
    if url:
        redis.Redis.from_url(url).flushall()
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    options = settings(max_examples=30, stateful_step_count=25, suppress_health_check=checks)
    run_state_machine_as_test(lambda: Requests(url), settings=options)
