"""
Limits and budgets on the path of a request: what binds it, what it asks of them, what its client is told.

Nothing is asked of a store for a request that nothing binds. What was taken is settled with the request's meter event,
whatever way it ends.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from gateway.core.binding import Bindings
from gateway.core.budgets import Budget, BudgetKind, spending
from gateway.core.hold_refusals import OverLimit, stream_over_budget, unbounded, unpriced
from gateway.core.holds import Ask, BudgetAsk, LimitAsk, LimitStanding, Standings
from gateway.core.limits import Limit, Metric, counted
from gateway.core.outcome import Outcome
from gateway.core.periods import account, calendar
from gateway.core.prices import PriceVersion
from gateway.core.rating import cost_nano, rate
from gateway.core.request import ChatRequest
from gateway.core.usage import MeterEvent, Usage
from gateway.core.worst_case import Reach, as_usage, at_most, bounded, expected, most_nano, started, unbounded_part
from gateway.ports.directory import DirectoryReader
from gateway.ports.holds import Holds
from gateway.serve.authn import Caller
from gateway.serve.http import Reply
from gateway.serve.metering import MeterRecord

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class HoldRules:
    """
    What requests on budgets go by.

    *max_tokens_default* bounds answers on a hard budget where the request does not. A stream on a soft one takes so
    many *slice_tokens* at a time, which is how often its progress is noted.
    """

    max_tokens_default: int
    slice_tokens: int


class Declared:
    """The limits and budgets of the newest snapshot, by whom they bind; sorted anew when any of them changed."""

    def __init__(self, directory: DirectoryReader) -> None:
        self._directory = directory
        self._limits_of: Mapping[str, Limit] = {}
        self._budgets_of: Mapping[str, Budget] = {}
        self._limits = Bindings[Limit].of(())
        self._budgets = Bindings[Budget].of(())

    @property
    def limits(self) -> Bindings[Limit]:
        declared = self._directory.snapshot.limits
        if declared is not self._limits_of:
            self._limits_of, self._limits = declared, Bindings[Limit].of(declared.values())
        return self._limits

    @property
    def budgets(self) -> Bindings[Budget]:
        declared = self._directory.snapshot.budgets
        if declared is not self._budgets_of:
            self._budgets_of, self._budgets = declared, Bindings[Budget].of(declared.values())
        return self._budgets

    def price(self, version: str) -> PriceVersion | None:
        """Find a version of prices by its id."""
        return self._directory.snapshot.prices.by_id.get(version)


class Holding:
    """What one gateway's requests hold."""

    def __init__(self, holds: Holds, declared: Declared, rules: HoldRules) -> None:
        self._holds = holds
        self._declared = declared
        self._rules = rules

    def of_job(self, job_id: str) -> "Holding":
        """Give what a run of the job *job_id* goes by."""
        return _JobHolding(self._holds, self._declared, self._rules, job_id)

    async def hold(self, record: MeterRecord, reply: Reply) -> ChatRequest:
        """
        Take what binds the request of *record*, or refuse it: Refused(LIMITED, OVER_BUDGET, BUDGET_UNAVAILABLE).

        Gives the request to go on with: on a hard budget one without max_tokens gets them. Nothing is awaited for a
        request that nothing binds.
        """
        return await self.hold_as(record.id, record, reply.headers)

    async def hold_as(self, hold_id: str, record: MeterRecord, headers: list[Header]) -> ChatRequest:
        """Take it under *hold_id*, the request's own or the job's whose run it is."""
        limits, budgets = self._binding(record)
        request = record.parsed
        if not limits and not budgets:
            return request
        if any(budget.is_hard for budget in budgets):
            request = bounded(request, self._rules.max_tokens_default)
        ask = self._ask(hold_id, record, request, limits, budgets)
        try:
            standings = await self._holds.hold(ask)
        except OverLimit as refusal:
            headers += rate_headers(refusal.standings)
            raise
        headers += rate_headers(standings)
        self._follow(ask, record, request)
        return request

    async def standings(self, caller: Caller, at_ms: int) -> Standings:
        """Tell how everything stands that may bind a request of *caller*, whatever model it is for."""
        whose = caller.tenant, caller.project, caller.key
        limits = (limit_ask(limit, Usage()) for limit in self._declared.limits.of_caller(*whose))
        budgets = (self._account(budget, at_ms, 0) for budget in self._declared.budgets.of_caller(*whose))
        return await self._holds.standings(
            Ask(id="", tenant=caller.tenant, limits=tuple(limits), budgets=tuple(budgets))
        )

    async def standings_of(self, tenant: str, at_ms: int) -> Standings:
        """Tell how all of a tenant's own limits and budgets stand."""
        limits = (limit_ask(limit, Usage()) for limit in self._declared.limits.of_tenant(tenant))
        budgets = (self._account(budget, at_ms, 0) for budget in self._declared.budgets.of_tenant(tenant))
        return await self._holds.standings(Ask(id="", tenant=tenant, limits=tuple(limits), budgets=tuple(budgets)))

    def release(self, hold_id: str) -> None:
        """End a hold as if it had never been, if it has not been settled."""
        self._holds.release(hold_id)

    def end(self, hold_id: str, event: MeterEvent, price: PriceVersion | None) -> None:
        """Settle a hold with the final event of its request; one that was not answered has cost nothing."""
        if _cost_nothing(event):
            self._holds.release(hold_id)
            return
        usage = Usage(event.prompt_tokens, event.completion_tokens)
        self._holds.settle(hold_id, usage, _cost(event, price))

    def close(self, event: MeterEvent) -> None:
        """Settle by the event of a job, at the gateway that closes it, wherever it ran."""
        if _cost_nothing(event):
            self._holds.release(event.id)
            return
        price = self._declared.price(event.price)
        bound = self._declared.budgets.bind(event.tenant, event.project, event.key, event.model)
        asks = [self._account(budget, event.arrived_ms, 0) for budget in bound if _counts(budget, price)]
        usage = Usage(event.prompt_tokens, event.completion_tokens)
        self._holds.settle(event.id, usage, _cost(event, price), asks)

    def _follow(self, ask: Ask, record: MeterRecord, request: ChatRequest) -> None:
        """Have the hold grow with the answer, where it must, and end with it."""
        record.on_settled = lambda event: self.end(ask.id, event, record.price)
        if request.is_stream and any(not budget.is_hard for budget in ask.budgets):
            record.on_progress = partial(self._extend, ask.id, record)

    def _extend(self, hold_id: str, record: MeterRecord, delivered: Usage) -> None:
        """Take the next slice for a stream; raises Refused(BUDGET_ENDED) if nothing is left."""
        ahead = Reach(delivered.prompt, delivered.completion + self._rules.slice_tokens)
        nano = _most(ahead, record)
        if not self._holds.extend(hold_id, nano, ahead.tokens):
            raise stream_over_budget(record.id)

    def _binding(self, record: MeterRecord) -> tuple[list[Limit], list[Budget]]:
        limits, budgets = self._declared.limits, self._declared.budgets
        if not limits and not budgets:
            return [], []
        caller, model = record.admitted, record.parsed.model
        whose = caller.tenant, caller.project, caller.key, model
        found = [budget for budget in budgets.bind(*whose) if budget.is_hard or _counts(budget, record.price)]
        return list(limits.bind(*whose)), found

    def _ask(
        self, hold_id: str, record: MeterRecord, request: ChatRequest, limits: list[Limit], budgets: list[Budget]
    ) -> Ask:
        estimate = as_usage(expected(request))
        return Ask(
            id=hold_id,
            tenant=record.admitted.tenant,
            limits=tuple(limit_ask(limit, estimate) for limit in limits),
            budgets=tuple(self._budget_ask(budget, record, request) for budget in budgets),
        )

    def _budget_ask(self, budget: Budget, record: MeterRecord, request: ChatRequest) -> BudgetAsk:
        """Ask of a budget; raises Refused if a hard one cannot tell what the request costs at most."""
        if not _counts(budget, record.price):
            raise unpriced(budget.id, request.model, budget.currency)
        if budget.is_hard:
            if what := unbounded_part(request):
                raise unbounded(budget.id, what)
            reach = at_most(request)
        else:
            reach = started(request, self._rules.slice_tokens) if request.is_stream else expected(request)
        quantity = spending(budget.kind, _most(reach, record), reach.tokens)
        return self._account(budget, record.arrived_ms, quantity)

    def _account(self, budget: Budget, arrived_ms: int, quantity: int) -> BudgetAsk:
        span = calendar(budget.zone).span(budget.period, arrived_ms)
        return BudgetAsk(
            id=budget.id,
            account=account(budget.id, span.from_ms),
            begins_ms=span.from_ms,
            scope=budget.scope,
            subject=budget.subject,
            tenant=budget.tenant,
            model=budget.model,
            kind=budget.kind,
            currency=budget.currency,
            amount=budget.amount,
            ends_ms=span.to_ms,
            is_hard=budget.is_hard,
            quantity=quantity,
        )


class _JobHolding(Holding):
    """What a run of a job holds: under the job's id, until the job is closed or given back."""

    def __init__(self, holds: Holds, declared: Declared, rules: HoldRules, job_id: str) -> None:
        super().__init__(holds, declared, rules)
        self._job_id = job_id

    async def hold(self, record: MeterRecord, reply: Reply) -> ChatRequest:  # noqa: ARG002  read much later, if ever
        return await self.hold_as(self._job_id, record, [])

    def end(self, hold_id: str, event: MeterEvent, price: PriceVersion | None) -> None:
        """Keep it: whether this run's answer counts is not decided yet."""


def limit_ask(limit: Limit, estimate: Usage) -> LimitAsk:
    """
    Ask of a limit what a request is expected to use.

    Of an answer no more than the limit allows in all: whether it gets so long is not known, and if so it is a debt.
    """
    bound = replace(estimate, completion=min(estimate.completion, max(0, limit.amount - _prompt_of(limit, estimate))))
    return LimitAsk(
        id=limit.id,
        scope=limit.scope,
        subject=limit.subject,
        tenant=limit.tenant,
        model=limit.model,
        metric=limit.metric,
        amount=limit.amount,
        quantity=counted(limit.metric, bound),
    )


def rate_headers(standings: Standings) -> Iterator[Header]:
    """Give OpenAI's headers for the tightest limit on requests, and the tightest on tokens."""
    for name, metrics in _HEADERS:
        found = [standing for standing in standings.limits if standing.ask.metric in metrics]
        if found:
            tightest = min(found, key=lambda standing: standing.remaining)
            yield from _headers(name, tightest)


_HEADERS = (
    (b"requests", {Metric.REQUESTS.value}),
    (b"tokens", {Metric.TOKENS.value, Metric.INPUT_TOKENS.value, Metric.OUTPUT_TOKENS.value}),
)


def _headers(name: bytes, standing: LimitStanding) -> Iterable[Header]:
    return (
        (b"x-ratelimit-limit-" + name, b"%d" % standing.ask.amount),
        (b"x-ratelimit-remaining-" + name, b"%d" % standing.remaining),
        (b"x-ratelimit-reset-" + name, duration(standing.clears_in_s or 0.0).encode()),
    )


def duration(seconds: float) -> str:
    """Write a time as OpenAI's headers do: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:.1f}s".replace(".0s", "s")


def _prompt_of(limit: Limit, estimate: Usage) -> int:
    return estimate.prompt if limit.metric == Metric.TOKENS.value else 0


def _counts(budget: Budget, price: PriceVersion | None) -> bool:
    """Tell whether what is priced so counts towards *budget*: amounts of another currency do not, nor what has none."""
    if budget.kind == BudgetKind.TOKENS.value:
        return True
    return price is not None and price.currency == budget.currency


def _most(reach: Reach, record: MeterRecord) -> int:
    return most_nano(reach, record.price, record.wished.service_class.label) if record.price else 0


def _cost(event: MeterEvent, price: PriceVersion | None) -> int:
    return cost_nano(rate(event, price)) if price else 0


def _cost_nothing(event: MeterEvent) -> bool:
    """Tell whether a request was turned away or failed, so that its limits are as if it had not come."""
    has_been_served = event.attempts and event.outcome in (Outcome.COMPLETED.label, Outcome.CLIENT_GONE.label)
    return not has_been_served and not event.prompt_tokens + event.completion_tokens
