"""
Tells when a budget is spent to a percentage that was declared: in the log, as a metric, and to its webhook.

Once per budget, period and percentage, whichever gateway sees it first. A webhook may come twice if its sender dies
before it notes that the first was received: `webhook-id` is the same.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog

from gateway.core.budgets import Budget, BudgetKind
from gateway.core.money import format_nano
from gateway.core.spending import Counter, limit_of, passed_percents, used_of
from gateway.ports.budgets import Alert, AlertStore
from gateway.ports.directory import DirectoryReader
from gateway.serve.loops import repeat
from gateway.serve.webhooks import Message, Webhooks

POLL_S = 5.0  # how soon what another gateway left is told
AT_ONCE_MAX = 16

log = structlog.get_logger()


class Alerts:
    """Notes and tells alerts. *on_end* is told of each: noted, then how each attempt to tell it ended."""

    def __init__(
        self,
        store: AlertStore,
        webhooks: Webhooks,
        directory: DirectoryReader,
        now_ms: Callable[[], int],
        on_end: Callable[[str], None],
    ) -> None:
        self._store = store
        self._webhooks = webhooks
        self._directory = directory
        self._now_ms = now_ms
        self._on_end = on_end
        self._known: set[tuple[str, int, int]] = set()
        self._has_news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def look(self, counters: Sequence[tuple[Budget, Counter]]) -> None:
        """Note what *counters*, which have just changed, have passed. Raises StoreUnavailable; then look again."""
        for budget, counter in counters:
            if passed := list(self._passed(budget, counter)):
                await self._note(budget, passed)

    async def start(self) -> None:
        """Begin to tell."""
        self._task = asyncio.create_task(repeat("tell_alerts", POLL_S, self._tell_due, self._has_news))

    async def aclose(self) -> None:
        """Stop; what was not told is told by another gateway, or after the next start."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._webhooks.aclose()

    def _passed(self, budget: Budget, counter: Counter) -> Iterator[Alert]:
        # A prepaid balance has no periods: it is told of anew each time after money came in.
        period_ms = counter.filled_ms if budget.kind == BudgetKind.PREPAID.value else counter.period_ms
        for percent in passed_percents(budget, counter):
            if (budget.id, period_ms, percent) not in self._known:
                yield Alert(
                    budget=budget.id,
                    period_ms=period_ms,
                    percent=percent,
                    spent=used_of(budget, counter),
                    amount=limit_of(budget, counter),
                    noted_ms=self._now_ms(),
                )

    async def _note(self, budget: Budget, passed: Sequence[Alert]) -> None:
        due_ms = self._now_ms() if budget.webhook_url else None
        new = await asyncio.to_thread(self._store.note, passed, due_ms)
        self._known.update((alert.budget, alert.period_ms, alert.percent) for alert in passed)
        for alert in new:
            self._on_end("noted")
            log.warning("budget_alert", **alert_to_json(alert, budget))
        if new and due_ms is not None:
            self._has_news.set()

    async def _tell_due(self) -> None:
        while due := await asyncio.to_thread(self._store.take_due, self._now_ms(), AT_ONCE_MAX):
            await asyncio.gather(*map(self._tell, due))

    async def _tell(self, alert: Alert) -> None:
        budget = self._directory.snapshot.budgets.get(alert.budget)
        retry_in_s = None
        if budget is not None and budget.webhook_url and not budget.is_removed:
            retry_in_s = await self._webhooks.deliver(_message(alert, budget), alert_to_json(alert, budget))
        await asyncio.to_thread(self._store.settle, alert, self._now_ms(), retry_in_s)


def alert_to_json(alert: Alert, budget: Budget) -> dict[str, Any]:
    """Give what an alert says: money in its currency, tokens as they are."""
    is_tokens = budget.kind == BudgetKind.TOKENS.value
    amounts = {"spent": alert.spent, "amount": alert.amount}
    return {
        "type": "budget.alert",
        "budget": budget.id,
        **{
            name: getattr(budget, name) for name in ("tenant", "scope", "subject", "model", "kind", "period", "is_hard")
        },
        "percent": alert.percent,
        **{name: amount if is_tokens else format_nano(amount) for name, amount in amounts.items()},
        "currency": None if is_tokens else budget.currency,
        "period_ms": alert.period_ms,
        "noted_ms": alert.noted_ms,
    }


def _message(alert: Alert, budget: Budget) -> Message:
    return Message(
        id=f"msg_{alert.budget}_{alert.period_ms}_{alert.percent}",
        about=alert.budget,
        tenant=budget.tenant,
        url=budget.webhook_url,
        attempt=alert.attempts,
        since_ms=alert.noted_ms,
    )
