"""Reconciliation while it happens: the residue of the last hour as metrics, and an alarm that is logged once."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from gateway.errors import StoreUnavailable
from gateway.finance.reconcile import compare
from gateway.finance.residue import Alarm, Residue, residues
from gateway.ports.work import Engine, WorkReader

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WatchRules:
    """
    Which stretch is looked at, and when it is too much.

    It ends *lag_s* ago, so that what was under way at its end has ended and has been shipped, is *window_s* long, and
    is looked at every *every_s*.
    """

    every_s: float = 60.0
    window_s: float = 3600.0
    lag_s: float = 600.0
    alarm: Alarm = field(default_factory=Alarm)


class ResidueWatch:
    """
    Looks at the engines that this gateway hears of, and at those it has heard of within the stretch.

    It reads a few rows for each engine and the events of the stretch, whatever else the Journal holds. With the
    database away, what was found last stands.
    """

    def __init__(
        self, work: WorkReader, engines: Callable[[], Iterable[Engine]], rules: WatchRules, now_ms: Callable[[], int]
    ) -> None:
        self._work = work
        self._engines = engines
        self._rules = rules
        self._now_ms = now_ms
        self._heard: dict[Engine, int] = {}
        self._alarmed: set[str] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_blind = False
        self._found: list[Residue] = []

    def __repr__(self) -> str:
        return f"<ResidueWatch [{len(self._heard)} engines, {len(self._alarmed)} alarms]>"

    def start(self) -> None:
        """Begin to look again and again."""
        self._looking = asyncio.create_task(self._keep_looking(), name="residue")

    async def aclose(self) -> None:
        """Stop looking."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def look(self) -> None:
        """Compare once more. Raises StoreUnavailable."""
        now_ms = self._now_ms()
        to_ms = now_ms - round(self._rules.lag_s * 1000)
        from_ms = to_ms - round(self._rules.window_s * 1000)
        self._heard.update(dict.fromkeys(self._engines(), now_ms))
        self._heard = {engine: heard_ms for engine, heard_ms in self._heard.items() if heard_ms > from_ms}
        engines = list(self._heard)
        self._found = residues(await asyncio.to_thread(compare, self._work, from_ms, to_ms, engines))
        self._tell()

    def tokens(self) -> dict[str, float]:
        """Give the tokens that nothing explains, by worker."""
        return {residue.worker: residue.tokens for residue in self._found}

    def ratios(self) -> dict[str, float]:
        """Give them as parts of what the engines made."""
        return {residue.worker: residue.ratio for residue in self._found}

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._rules.every_s)
            try:
                await self.look()
                self._is_blind = False
            except Exception as error:  # the supervisor of a loop that only tells: the next round may go well
                if not isinstance(error, StoreUnavailable):
                    log.exception("residue_look_failed")
                elif not self._is_blind:
                    log.warning("residue_not_known", reason=str(error))
                self._is_blind = True

    def _tell(self) -> None:
        due = {residue.worker: residue for residue in self._found if self._rules.alarm.is_due(residue)}
        for worker in sorted(due.keys() - self._alarmed):
            residue = due[worker]
            log.warning("residue_too_large", worker=worker, tokens=residue.tokens, explanation=residue.explain())
        for worker in sorted(self._alarmed - due.keys()):
            log.info("residue_small_again", worker=worker)
        self._alarmed = set(due)
