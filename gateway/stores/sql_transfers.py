"""Transfers between accounts, in SQL: written once, never changed; balances are their sums."""

from dataclasses import fields

from sqlalchemy import Connection, case, func, select, union_all

from gateway.core.budgets import BudgetKind
from gateway.core.money import format_nano
from gateway.errors import AlreadyExists, InvalidInput, NotFoundError
from gateway.ports.budgets import Transfer, prepaid_account
from gateway.stores.database import Database
from gateway.stores.schema import budget_counters, budgets, transfers
from gateway.stores.sql_budgets import add_to_counters, transfer_row

PREPAID = prepaid_account("")
_FIELDS = tuple(field.name for field in fields(Transfer))
_SAME = ("debit", "credit", "amount_nano", "currency")  # what a transfer that is written again must agree in


def transfer_once(connection: Connection, database: Database, transfer: Transfer) -> Transfer:
    """Write a transfer into or out of a prepaid account unless its reference is known; as `BudgetStore.transfer`."""
    into = transfer.credit.startswith(PREPAID)
    account = transfer.credit if into else transfer.debit
    budget = _prepaid_budget(connection, account.removeprefix(PREPAID), transfer.currency)
    # First, because its lock lets no other transfer of this account in between.
    change = -transfer.amount_nano if into else transfer.amount_nano
    add_to_counters(connection, database, {(budget, 0): change}, transfer.at_ms)
    if known := _find(connection, transfer.reference):
        add_to_counters(connection, database, {(budget, 0): -change}, transfer.at_ms)
        return _check_same(known, transfer)
    if into:
        _note_filled(connection, budget, transfer.at_ms)
    else:
        _check_covered(connection, budget, transfer)
    connection.execute(transfers.insert(), [transfer_row(transfer)])
    return transfer


def read_transfers(connection: Connection, account: str, limit: int) -> list[Transfer]:
    """Read the last transfers from or to *account*, newest first."""
    theirs = (transfers.c.debit == account) | (transfers.c.credit == account)
    newest = (transfers.c.at_ms.desc(), transfers.c.id.desc())
    query = select(*(transfers.c[name] for name in _FIELDS)).where(theirs).order_by(*newest).limit(limit)
    return [Transfer(**row) for row in connection.execute(query).mappings()]


def read_balances(connection: Connection, account: str | None = None) -> list[tuple[str, str, int]]:
    """Sum all transfers by account and currency, or those of one account."""
    amount = transfers.c.amount_nano
    moves = union_all(
        select(transfers.c.credit.label("account"), transfers.c.currency, amount.label("amount")),
        select(transfers.c.debit.label("account"), transfers.c.currency, (-amount).label("amount")),
    ).subquery()
    query = select(moves.c.account, moves.c.currency, func.sum(moves.c.amount)).group_by(
        moves.c.account, moves.c.currency
    )
    if account is not None:
        query = query.where(moves.c.account == account)
    found = connection.execute(query.order_by(moves.c.account, moves.c.currency))
    return [(name, currency, int(total)) for name, currency, total in found]


def balance(connection: Connection, account: str) -> int:
    """Sum the transfers of an account of one currency."""
    sign = case((transfers.c.credit == account, transfers.c.amount_nano), else_=-transfers.c.amount_nano)
    theirs = (transfers.c.debit == account) | (transfers.c.credit == account)
    return int(connection.execute(select(func.coalesce(func.sum(sign), 0)).where(theirs)).scalar_one())


def _prepaid_budget(connection: Connection, tenant: str, currency: str) -> str:
    query = select(budgets.c.id, budgets.c.currency).where(
        budgets.c.tenant == tenant, budgets.c.kind == BudgetKind.PREPAID.value, budgets.c.is_removed.is_(False)
    )
    found = connection.execute(query).first()
    if found is None:
        advice = f"Declare it first: `sluice budgets set --tenant {tenant} --prepaid`."
        raise NotFoundError(f"Tenant {tenant!r} has no prepaid balance. {advice}")
    if found.currency != currency:
        raise InvalidInput(f"currency {currency!r}: the balance of tenant {tenant!r} is in {found.currency}. Use that.")
    return str(found.id)


def _find(connection: Connection, reference: str) -> Transfer | None:
    query = select(*(transfers.c[name] for name in _FIELDS)).where(transfers.c.reference == reference)
    row = connection.execute(query).mappings().first()
    return Transfer(**row) if row else None


def _check_same(known: Transfer, wanted: Transfer) -> Transfer:
    if all(getattr(known, name) == getattr(wanted, name) for name in _SAME):
        return known
    what = f"{format_nano(known.amount_nano)} {known.currency} from {known.debit} to {known.credit}"
    raise AlreadyExists(f"The reference {known.reference!r} is that of another transfer: {what}. Give each its own.")


def _note_filled(connection: Connection, budget: str, at_ms: int) -> None:
    """Remember what there is after money came in: alerts tell how much of that is spent."""
    mine = (budget_counters.c.budget == budget) & (budget_counters.c.period_ms == 0)
    connection.execute(
        budget_counters.update().where(mine).values(filled=-budget_counters.c.spent, filled_ms=at_ms),
    )


def _check_covered(connection: Connection, budget: str, transfer: Transfer) -> None:
    mine = (budget_counters.c.budget == budget) & (budget_counters.c.period_ms == 0)
    spent = connection.execute(select(budget_counters.c.spent).where(mine)).scalar_one()
    if spent > 0:
        there = f"{format_nano(transfer.amount_nano - spent)} {transfer.currency}"
        wanted = f"{format_nano(transfer.amount_nano)} {transfer.currency}"
        raise InvalidInput(f"amount {wanted} is more than the {there} there are in {transfer.debit!r}. Take less.")
