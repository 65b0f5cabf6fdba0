"""Bases of accounts that this process has not heard of yet: read from the Journal, each once at a time."""

import asyncio
from collections.abc import Sequence
from math import inf

import structlog

from gateway.core.hold_refusals import budget_unavailable
from gateway.core.holds import Ask, BudgetAsk
from gateway.errors import StoreUnavailable
from gateway.ports.holds import ReadBases
from gateway.stores.hold_sums import BASES_MAX, OwnSums

FAILED_S = 2.0  # after a reading failed, nobody waits for another one

log = structlog.get_logger()


class BaseReading:
    """Reads bases into *sums*. One reading at a time: who waits for it usually finds what it came for."""

    def __init__(self, sums: OwnSums, read: ReadBases) -> None:
        self._sums = sums
        self._read = read
        self._one = asyncio.Lock()
        self._read_s: dict[str, float] = {}
        self._failed_s = -inf

    def lacks(self, ask: Ask) -> bool:
        """Tell whether the base of an account of *ask* is not known here."""
        return any(budget.account not in self._sums.bases for budget in ask.budgets)

    async def make_known(self, ask: Ask, since_s: float = -inf) -> None:
        """
        Read the bases of *ask* that are not known, or were last read before *since_s* of the loop's time.

        Raises Refused(BUDGET_UNAVAILABLE) for a hard budget if the Journal does not answer; a soft one goes on.
        """
        async with self._one:
            wanted = [budget for budget in ask.budgets if self._is_wanted(budget, since_s)]
            if wanted and not await self._has_read(wanted) and (hard := hard_budgets(ask)):
                raise budget_unavailable(hard, "the Journal does not answer")

    async def _has_read(self, wanted: Sequence[BudgetAsk]) -> bool:
        began_s = asyncio.get_running_loop().time()
        if began_s < self._failed_s + FAILED_S:
            return False
        try:
            self._sums.learn(await self._read(wanted))
        except StoreUnavailable as error:
            self._failed_s = asyncio.get_running_loop().time()
            log.warning("budget_base_unknown", accounts=len(wanted), reason=str(error))
            return False
        self._note_read(wanted, began_s)
        return True

    def _is_wanted(self, budget: BudgetAsk, since_s: float) -> bool:
        is_known = budget.account in self._sums.bases
        return not is_known or self._read_s.get(budget.account, -inf) < since_s

    def _note_read(self, budgets: Sequence[BudgetAsk], at_s: float) -> None:
        if len(self._read_s) > BASES_MAX:
            self._read_s.clear()
        self._read_s.update({budget.account: at_s for budget in budgets})


def hard_budgets(ask: Ask) -> list[BudgetAsk]:
    """Give the hard budgets of *ask*."""
    return [budget for budget in ask.budgets if budget.is_hard]
