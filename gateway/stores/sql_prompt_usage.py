"""The Journal in SQL, by length of prompt."""

from collections.abc import Sequence

from sqlalchemy import case, func, literal, or_, select

from gateway.ports.prompt_usage import PromptUsage
from gateway.stores.database import Database
from gateway.stores.schema import meter_events

_GROUPS = ("tenant", "model", "pool", "service_class")
_SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "images", "audio_ms")
_COUNTED = ("prompt_tokens", "completion_tokens", "images", "audio_ms")


class SqlPromptUsage:
    """The `PromptUsageReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def usage_by_prompt(self, from_ms: int, to_ms: int, bounds: Sequence[int]) -> Sequence[PromptUsage]:
        of = meter_events.c
        longest_first = [(of.prompt_tokens >= bound, index) for index, bound in enumerate(bounds, start=1)][::-1]
        bracket = case(*longest_first, else_=0) if bounds else literal(0)
        # A subquery, as PostgreSQL takes two renderings of one CASE with parameters for two expressions.
        events = (
            select(*(of[name] for name in (*_GROUPS, *_SUMS)), bracket.label("bracket"))
            .where(from_ms <= of.arrived_ms, of.arrived_ms < to_ms, or_(*(of[name] > 0 for name in _COUNTED)))
            .subquery()
        )
        groups = [events.c[name] for name in (*_GROUPS, "bracket")]
        sums = [func.sum(events.c[name]) for name in _SUMS]
        query = select(*groups, func.count(), *sums).group_by(*groups).order_by(*groups)
        names = (*_GROUPS, "bracket", "requests", *_SUMS)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [PromptUsage(**dict(zip(names, (*row[:4], *map(int, row[4:])), strict=True))) for row in rows]
