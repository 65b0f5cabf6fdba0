"""How limits and budgets stand, as plain data: for the callers whom they bind, and for operators."""

from typing import Any

from gateway.core.budgets import BudgetKind
from gateway.core.holds import BudgetStanding, LimitStanding
from gateway.core.money import format_nano


def limit_to_json(standing: LimitStanding) -> dict[str, Any]:
    """Give how a limit stands; *clears_in_s* is when all of it is free, None: when what is under way ends."""
    ask, clears_in_s = standing.ask, standing.clears_in_s
    return {
        **{name: getattr(ask, name) for name in ("id", "scope", "subject", "model", "metric")},
        "allowed": ask.amount,
        "used": standing.used,
        "left": standing.remaining,
        "clears_in_s": None if clears_in_s is None else round(clears_in_s, 3),
    }


def budget_to_json(standing: BudgetStanding) -> dict[str, Any]:
    """Give how a budget stands, money in its currency; *ends_ms* is when its next period begins."""
    ask = standing.ask
    is_tokens, is_prepaid = ask.kind == BudgetKind.TOKENS.value, ask.kind == BudgetKind.PREPAID.value

    def shown(amount: int) -> str | int:
        return amount if is_tokens else format_nano(amount)

    return {
        **{name: getattr(ask, name) for name in ("id", "scope", "subject", "model", "kind", "is_hard", "ends_ms")},
        "currency": None if is_tokens else ask.currency,
        "allowed": None if is_prepaid else shown(ask.amount),
        "used": None if is_prepaid else shown(standing.spent + standing.unshipped),
        "held": shown(standing.held),
        "left": shown(standing.available),
    }
