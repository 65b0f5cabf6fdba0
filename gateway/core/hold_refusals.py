"""What a request is told that met a limit or a budget: which, whose, how it stands, when to come again."""

from collections.abc import Sequence
from math import ceil, inf
from typing import Any

from gateway.core.budgets import BudgetKind
from gateway.core.holds import BudgetAsk, BudgetStanding, LimitAsk, LimitStanding, Standings
from gateway.core.limits import is_rate
from gateway.core.money import format_nano
from gateway.core.outcome import Outcome
from gateway.errors import Refused

RETRY_AFTER_S_MIN, RETRY_AFTER_S_MAX = 1, 60  # OpenAI's Node SDK obeys no more than 60 s
STORE_RETRY_AFTER_S = 5


class OverLimit(Refused):
    """A refusal by a limit or a budget, with how everything stands that binds the request."""

    def __init__(self, refusal: Refused, standings: Standings) -> None:
        super().__init__(
            refusal.outcome,
            refusal.message,
            param=refusal.param,
            code=refusal.code,
            retry_after_s=refusal.retry_after_s,
            should_retry=refusal.should_retry,
            limit=refusal.limit,
        )
        self.standings = standings


def limited(standing: LimitStanding, wait_s: float | None) -> Refused:
    """Refuse for a limit in which the request has room in *wait_s* if nobody else comes; None: nobody knows when."""
    ask = standing.ask
    limit = _limit(ask, ask.metric, standing.used, ask.amount, wait_s)
    per = "a minute" if is_rate(ask.metric) else "at once"
    message = f"The {ask.scope} {ask.subject!r}{_of_model(ask.model)} may have {ask.amount} {_named(ask.metric)} {per}"
    if wait_s == inf:
        message += f"; this request alone asks for {ask.quantity}. Make it smaller, or ask the operator for more."
        return Refused(Outcome.LIMITED, message, should_retry=False, limit=limit)
    message += f"; {standing.used} are in use, and this request asks for {ask.quantity}."
    if wait_s is not None and wait_s > RETRY_AFTER_S_MAX:
        message += f" There is room in {wait_s:.0f} s: come again then."
        return Refused(Outcome.LIMITED, message, should_retry=False, limit=limit)
    retry_after_s = RETRY_AFTER_S_MIN if wait_s is None else max(RETRY_AFTER_S_MIN, ceil(wait_s))
    return Refused(Outcome.LIMITED, f"{message} Retry in {retry_after_s} s.", retry_after_s=retry_after_s, limit=limit)


def over_budget(standing: BudgetStanding, now_ms: int) -> Refused:
    """Refuse for a budget that has too little left, or nothing."""
    ask = standing.ask
    wait_s = None if ask.ends_ms is None else max(0.0, (ask.ends_ms - now_ms) / 1000)
    taken = standing.spent + standing.unshipped + standing.held
    limit = _limit(ask, ask.kind, taken, ask.amount, wait_s) | {"available": standing.available, "budget": ask.id}
    what = "This request may cost" if ask.is_hard else "Something must be left of it; this request asks for"
    message = (
        f"The {ask.kind} budget {ask.id!r} of the {ask.scope} {ask.subject!r}{_of_model(ask.model)} has "
        f"{_amount(ask, max(0, standing.available))} left. {what} {_amount(ask, ask.quantity)}."
    )
    if standing.held:
        message += f" {_amount(ask, standing.held)} are held by requests under way: what they do not use is set free."
    advice = "Lower max_tokens, or ask" if ask.is_hard else "Ask"
    message += f" {advice} whoever sets the budget for more{_until(wait_s)}."
    return Refused(Outcome.OVER_BUDGET, message, should_retry=False, limit=limit)


def stream_over_budget(request_id: str) -> Refused:
    """End a stream whose soft budget has nothing left for its next slice."""
    message = (
        f"The budget of the request {request_id} was used up while it was answered. What was delivered is billed; ask "
        f"whoever sets the budget for more."
    )
    return Refused(Outcome.BUDGET_ENDED, message, should_retry=False)


def budget_unavailable(asks: Sequence[BudgetAsk], reason: str) -> Refused:
    """Refuse since nobody can tell now whether a hard budget would be passed."""
    message = (
        f"Whether the hard budget {asks[0].id!r} allows this request cannot be told now: {reason}. "
        f"Retry in {STORE_RETRY_AFTER_S} s."
    )
    return Refused(Outcome.BUDGET_UNAVAILABLE, message, retry_after_s=STORE_RETRY_AFTER_S)


def unpriced(budget: str, model: str, currency: str) -> Refused:
    """Refuse since what a request costs at most is not known, and a hard budget must know."""
    message = (
        f"The model {model!r} has no price in {currency} now, so that the hard budget {budget!r} cannot bound what "
        f"this request costs. The operator sets prices with `sluice prices import`."
    )
    return Refused(Outcome.BUDGET_UNAVAILABLE, message, code="no_price", should_retry=False, param="model")


def unbounded(budget: str, what: str) -> Refused:
    """Refuse since *what* of the request has no bound that can be told before it starts."""
    message = (
        f"The hard budget {budget!r} must bound what this request costs before it starts, and {what} has no bound that "
        f"can be told. Leave it out, or send media in the request itself."
    )
    return Refused(Outcome.BAD_REQUEST, message, code="unbounded_cost", param="messages")


def _limit(
    ask: LimitAsk | BudgetAsk, metric: str, current: int, allowed: int, clears_in_s: float | None
) -> dict[str, Any]:
    is_known = clears_in_s is not None and clears_in_s != inf
    return {
        "id": ask.id,
        "scope": ask.scope,
        "subject": ask.subject,
        "model": ask.model,
        "metric": metric,
        "current": current,
        "allowed": allowed,
        "requested": ask.quantity,
        "clears_in_s": round(clears_in_s, 1) if is_known and clears_in_s is not None else None,
    }


def _named(metric: str) -> str:
    return metric.replace("_", " ") if is_rate(metric) else "requests"


def _of_model(model: str) -> str:
    return f" for the model {model!r}" if model else ""


def _amount(ask: BudgetAsk, quantity: int) -> str:
    return f"{quantity} tokens" if ask.kind == BudgetKind.TOKENS.value else f"{format_nano(quantity)} {ask.currency}"


def _until(wait_s: float | None) -> str:
    return "" if wait_s is None else f", or wait for its next period, in {wait_s / 3600:.1f} h"
