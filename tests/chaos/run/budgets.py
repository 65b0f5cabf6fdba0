"""The budgets of a run: one of each kind, too large to refuse anything, so that their counters have all to add up."""

from gateway.core.budgets import Budget
from gateway.core.money import CURRENCY, NANO
from gateway.ports.budgets import Transfer, cash_account, prepaid_account

ENOUGH = 10**15


def declared(now_ms: int) -> list[Budget]:
    """Give the budgets of a run that begins at *now_ms*: money per day, tokens per month, and paid in advance."""
    return [
        _budget("bud_money", "acme", "money", "day", ENOUGH, now_ms),
        _budget("bud_tokens", "night", "tokens", "month", ENOUGH, now_ms),
        _budget("bud_prepaid", "globex", "prepaid", "total", 0, now_ms),
    ]


def paid_in_advance(now_ms: int) -> Transfer:
    """Give what the one who pays in advance has paid."""
    return Transfer(
        id="tra_1",
        at_ms=now_ms,
        debit=cash_account("globex"),
        credit=prepaid_account("globex"),
        amount_nano=1_000_000 * NANO,
        currency=CURRENCY,
        reason="topup",
        reference="payment 1",
    )


def _budget(name: str, tenant: str, kind: str, period: str, amount: int, now_ms: int) -> Budget:
    return Budget(
        id=name,
        scope="tenant",
        subject=tenant,
        tenant=tenant,
        kind=kind,
        period=period,
        amount=amount,
        zone="Asia/Shanghai",
        since_ms=now_ms,
    )
