"""The store of budgets in SQL: what gateways and operators ask of counters, transfers and their proof."""

import time
from collections.abc import Callable, Collection, Sequence

from gateway.core.spending import Counter
from gateway.ports.budgets import Difference, Transfer
from gateway.stores import sql_rebuild
from gateway.stores.database import Database
from gateway.stores.sql_budgets import read_counters
from gateway.stores.sql_transfers import read_balances, read_transfers, transfer_once


class SqlBudgets:
    """The `BudgetStore`."""

    def __init__(self, database: Database, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._database = database
        self._now_ms = now_ms

    def counters(
        self, periods: Collection[int] | None = None, budgets: Collection[str] | None = None
    ) -> Sequence[Counter]:
        with self._database.reading() as connection:
            return read_counters(connection, periods, budgets)

    def transfer(self, transfer: Transfer) -> Transfer:
        with self._database.writing() as connection:
            return transfer_once(connection, self._database, transfer)

    def transfers(self, account: str, limit: int) -> Sequence[Transfer]:
        with self._database.reading() as connection:
            return read_transfers(connection, account, limit)

    def balances(self) -> Sequence[tuple[str, str, int]]:
        with self._database.reading() as connection:
            return read_balances(connection)

    def prove(self) -> Sequence[Difference]:
        with self._database.reading() as connection:
            return sql_rebuild.prove(connection).differences

    def rebuild(self) -> Sequence[Difference]:
        with self._database.writing() as connection:
            return sql_rebuild.rebuild(connection, self._database, self._now_ms()).differences
