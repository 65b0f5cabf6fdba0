"""Balances that tenants paid in advance: money in, money back, what is left. Verbs over the ledger."""

from dataclasses import asdict
from typing import Any

from gateway.core.ids import time_sorted_id
from gateway.core.money import CURRENCY, check_currency, format_nano, parse_nano
from gateway.errors import InvalidInput
from gateway.ports.budgets import BudgetStore, Transfer, cash_account, prepaid_account

REFERENCE_CHARS_MAX = 200
HISTORY_MAX = 10_000
_OURS = ("usage:",)  # how references begin that the ledger gives itself


def top_up(
    ledger: BudgetStore, tenant: str, amount: str, *, now_ms: int, reference: str = "", currency: str = CURRENCY
) -> Transfer:
    """
    Take in money of *tenant*. Idempotent by *reference*; without one every call is another payment.

    Raises NotFoundError if the tenant has no prepaid budget, AlreadyExists if the reference is that of another
    transfer, InvalidInput for an amount, a currency or a reference that cannot be.
    """
    nano = _amount(amount)
    accounts = (cash_account(tenant), prepaid_account(tenant))
    return ledger.transfer(_transfer(accounts, nano, currency, "topup", reference, now_ms))


def refund(
    ledger: BudgetStore, tenant: str, amount: str, *, now_ms: int, reference: str = "", currency: str = CURRENCY
) -> Transfer:
    """Give money back, at most what is left. Otherwise as `top_up`."""
    nano = _amount(amount)
    accounts = (prepaid_account(tenant), cash_account(tenant))
    return ledger.transfer(_transfer(accounts, nano, currency, "refund", reference, now_ms))


def balances(ledger: BudgetStore, tenant: str | None = None) -> list[dict[str, Any]]:
    """Give what is left of all that was paid in advance, or of what *tenant* paid: sums of transfers."""
    prefix = prepaid_account("")
    return [
        {"tenant": name.removeprefix(prefix), "currency": currency, "balance": format_nano(nano), "balance_nano": nano}
        for name, currency, nano in ledger.balances()
        if name.startswith(prefix) and tenant in (None, name.removeprefix(prefix))
    ]


def history(ledger: BudgetStore, tenant: str, limit: int) -> list[dict[str, Any]]:
    """Give the last transfers into and out of a tenant's balance, newest first. Raises InvalidInput."""
    if not 1 <= limit <= HISTORY_MAX:
        raise InvalidInput(f"limit {limit} cannot be: 1 to {HISTORY_MAX} transfers are shown.")
    account = prepaid_account(tenant)
    return [to_json(each, account) for each in ledger.transfers(account, limit)]


def to_json(transfer: Transfer, account: str) -> dict[str, Any]:
    """Give what is shown of a transfer; *change* is what it did to *account*."""
    change = transfer.amount_nano if transfer.credit == account else -transfer.amount_nano
    return {**asdict(transfer), "amount": format_nano(transfer.amount_nano), "change": format_nano(change)}


def _amount(text: str) -> int:
    nano = parse_nano(text, "amount")
    if nano <= 0:
        raise InvalidInput(f"amount {text!r} is not more than 0. To take money back, refund it.")
    return nano


def _transfer(
    accounts: tuple[str, str], nano: int, currency: str, reason: str, reference: str, now_ms: int
) -> Transfer:
    identity = time_sorted_id("tra", now_ms)
    _check_reference(reference)
    debit, credit = accounts
    return Transfer(
        id=identity,
        at_ms=now_ms,
        debit=debit,
        credit=credit,
        amount_nano=nano,
        currency=check_currency(currency),
        reason=reason,
        reference=reference or identity,
    )


def _check_reference(reference: str) -> None:
    if len(reference) > REFERENCE_CHARS_MAX or not reference.isprintable():
        raise InvalidInput(f"A reference has at most {REFERENCE_CHARS_MAX} printable characters. Shorten it.")
    if reference.startswith(_OURS):
        raise InvalidInput(f"reference {reference!r} begins as those of usage do. Choose another.")
