"""Bases of accounts that this process has not heard of yet: read from the Journal, each once at a time."""

import asyncio

import structlog

from gateway.core.hold_refusals import budget_unavailable
from gateway.core.holds import Ask, BudgetAsk
from gateway.errors import StoreUnavailable
from gateway.ports.holds import ReadBases
from gateway.stores.hold_sums import OwnSums

log = structlog.get_logger()


class BaseReading:
    """Reads bases into *sums*. One reading at a time: who waits for it usually finds what it came for."""

    def __init__(self, sums: OwnSums, read: ReadBases) -> None:
        self._sums = sums
        self._read = read
        self._one = asyncio.Lock()

    def lacks(self, ask: Ask) -> bool:
        """Tell whether the base of an account of *ask* is not known here."""
        return any(budget.account not in self._sums.bases for budget in ask.budgets)

    async def make_known(self, ask: Ask, *, anew: bool = False) -> None:
        """
        Read the bases of *ask* that are not known, or all of them *anew*.

        Raises Refused(BUDGET_UNAVAILABLE) for a hard budget if the Journal does not answer; a soft one goes on.
        """
        async with self._one:
            wanted = [budget for budget in ask.budgets if anew or budget.account not in self._sums.bases]
            if not wanted:
                return
            try:
                self._sums.learn(await self._read(wanted))
            except StoreUnavailable as error:
                log.warning("budget_base_unknown", accounts=len(wanted), reason=str(error))
                if hard := hard_budgets(ask):
                    raise budget_unavailable(hard, "the Journal does not answer") from error


def hard_budgets(ask: Ask) -> list[BudgetAsk]:
    """Give the hard budgets of *ask*."""
    return [budget for budget in ask.budgets if budget.is_hard]
