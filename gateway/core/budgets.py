"""Budgets: how much money or how many tokens somebody may spend in a period, or of what they paid in advance."""

from dataclasses import dataclass
from enum import Enum

from gateway.core.money import CURRENCY


class BudgetKind(Enum):
    """What a budget counts; the label is permanent."""

    MONEY = "money"  # nano-units per period
    TOKENS = "tokens"  # a quota: prompt and completion tokens per period
    PREPAID = "prepaid"  # nano-units: what transfers into the tenant's account left over


class Period(Enum):
    """How long a budget lasts before it starts anew, at midnights of the ledger's zone; the label is permanent."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"  # for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """
    A declared budget. *scope*, *kind* and *period* are labels; *subject* is as a limit's (core/limits.py).

    *amount* is in nano-units or tokens; of PREPAID it is 0, since what was paid in decides. A hard budget holds the
    most that a request can cost before it starts, and never overshoots; a soft one lets a stream overshoot by a slice
    at most. *alert_percents* (such as "50,80,100") tell *webhook_url* when so much of it is spent. *model* narrows it
    down. *zone* is whose midnights its periods begin at, frozen so that all gateways agree; it counts from the
    beginning of the period in which it was declared, *since_ms*, and PREPAID from that very moment.
    """

    id: str
    scope: str
    subject: str
    tenant: str
    model: str = ""
    kind: str
    period: str
    amount: int = 0
    currency: str = CURRENCY
    is_hard: bool = False
    alert_percents: str = ""
    webhook_url: str = ""
    zone: str = "UTC"
    since_ms: int = 0
    is_removed: bool = False


def spending(kind: str, nano: int, tokens: int) -> int:
    """Give what a request that costs *nano* for so many *tokens* spends of a budget; *kind* is a label."""
    return tokens if kind == BudgetKind.TOKENS.value else nano


def admits(available: int, quantity: int, *, is_hard: bool) -> bool:
    """Decide whether *quantity* may be held: all of it must be there in a hard budget, anything in a soft one."""
    return quantity <= available if is_hard else available > 0
