"""Alerts of budgets in SQL: noted once for all gateways, then due until somebody has told."""

from collections.abc import Sequence
from dataclasses import asdict, fields

from sqlalchemy import ColumnElement, select, update

from gateway.ports.budgets import Alert
from gateway.stores.database import Database
from gateway.stores.schema import budget_alerts

TAKEN_MS = 60_000  # an alert that was taken and not settled for so long is another's to tell

_FIELDS = tuple(field.name for field in fields(Alert))
_KEY = ("budget", "period_ms", "percent")


class SqlAlerts:
    """The `AlertStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, alerts: Sequence[Alert], due_ms: int | None) -> Sequence[Alert]:
        insert = self._database.insert(budget_alerts).on_conflict_do_nothing().returning(budget_alerts.c.percent)
        new = []
        with self._database.writing() as connection:
            for alert in sorted(alerts, key=lambda each: (each.budget, each.period_ms, each.percent)):
                ended_ms = alert.noted_ms if due_ms is None else None
                row = {**asdict(alert), "due_ms": due_ms or alert.noted_ms, "ended_ms": ended_ms}
                if connection.execute(insert.values(row)).first():
                    new.append(alert)
        return new

    def take_due(self, now_ms: int, count: int) -> Sequence[Alert]:
        is_due = budget_alerts.c.ended_ms.is_(None) & (budget_alerts.c.due_ms <= now_ms)
        with self._database.reading() as connection:
            if connection.execute(select(budget_alerts.c.percent).where(is_due).limit(1)).first() is None:
                return []
        query = select(*(budget_alerts.c[name] for name in _FIELDS)).where(is_due)
        query = query.order_by(budget_alerts.c.due_ms).limit(count).with_for_update(skip_locked=True)
        with self._database.writing() as connection:
            found = [Alert(**row) for row in connection.execute(query).mappings()]
            taken = {"due_ms": now_ms + TAKEN_MS, "attempts": budget_alerts.c.attempts + 1}
            for alert in found:
                connection.execute(update(budget_alerts).where(*_is(alert)).values(taken))
        return [Alert(**{**asdict(alert), "attempts": alert.attempts + 1}) for alert in found]

    def settle(self, alert: Alert, now_ms: int, retry_in_s: float | None) -> None:
        values = {"ended_ms": now_ms} if retry_in_s is None else {"due_ms": now_ms + int(retry_in_s * 1000)}
        with self._database.writing() as connection:
            connection.execute(update(budget_alerts).where(*_is(alert)).values(values))


def _is(alert: Alert) -> list[ColumnElement[bool]]:
    return [budget_alerts.c[name] == getattr(alert, name) for name in _KEY]
