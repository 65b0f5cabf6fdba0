"""How versions of prices are shown: as JSON with stable names, every number of money a text; as rows for tables."""

from collections.abc import Iterable
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from gateway.control.price_entries import PRICES, write_factor, write_moment, write_tier
from gateway.control.price_preview import Preview, PreviewLine
from gateway.control.prices import Change, PricePlan, Step
from gateway.core.money import format_nano
from gateway.core.prices import PriceBook, PriceVersion


class State(Enum):
    """What a version is at an instant; the label is permanent."""

    AHEAD = "ahead"
    IN_FORCE = "in_force"
    PAST = "past"
    WITHDRAWN = "withdrawn"


def state_of(version: PriceVersion, at_ms: int) -> State:
    """Tell what *version* is at that instant."""
    if version.is_withdrawn:
        return State.WITHDRAWN
    if at_ms < version.from_ms:
        return State.AHEAD
    return State.IN_FORCE if version.to_ms is None or at_ms < version.to_ms else State.PAST


def select_prices(
    versions: Iterable[PriceVersion], model: str | None = None, tenant: str | None = None
) -> list[PriceVersion]:
    """Give those of *model* and of *tenant*'s own, None means all, scope by scope in order of time."""
    found = (each for each in versions if model in {None, each.model} and tenant in {None, each.tenant})
    return sorted(found, key=lambda each: (each.model, each.tenant, each.pool, each.from_ms, each.id))


def to_json(version: PriceVersion, at_ms: int, zone: ZoneInfo) -> dict[str, Any]:
    """Give a version as plain data; `from` and `to` are written in *zone*, prices as texts per million tokens."""
    return {
        "id": version.id,
        "model": version.model,
        "pool": version.pool,
        "tenant": version.tenant,
        "state": state_of(version, at_ms).value,
        "from": write_moment(version.from_ms, zone),
        "from_ms": version.from_ms,
        "to": None if version.to_ms is None else write_moment(version.to_ms, zone),
        "to_ms": version.to_ms,
        "currency": version.currency,
        "batch_factor": write_factor(version),
        "tiers": [{**write_tier(tier), "from_tokens": tier.from_tokens} for tier in version.tiers],
    }


def to_rows(version: PriceVersion, at_ms: int, zone: ZoneInfo) -> list[dict[str, Any]]:
    """Give a version as rows of a table, one per tier."""
    shared = to_json(version, at_ms, zone)
    return [{**shared, **tier} for tier in shared.pop("tiers")]


def plan_to_json(plan: PricePlan, at_ms: int, zone: ZoneInfo) -> dict[str, Any]:
    """Give a plan as plain data."""
    changes = [{"change": step.change.value, **to_json(step.version, at_ms, zone)} for step in plan.steps]
    return {"counts": plan.counts(), "changes": changes}


def plan_to_rows(plan: PricePlan, at_ms: int, zone: ZoneInfo) -> list[dict[str, Any]]:
    """Give a plan as rows of a table; a new version's prices beside those that hold until then: 0.5 → 0.3."""
    before = plan.before
    return [
        {**row, "change": step.change.value, **_compared(before, step, row)}
        for step in plan.steps
        for row in to_rows(step.version, at_ms, zone)
    ]


def preview_to_json(seen: Preview, zone: ZoneInfo) -> dict[str, Any]:
    """Give a preview as plain data; amounts are texts in units of their currency."""
    totals = [
        {"currency": currency, **_amounts(before, after, after - before)}
        for currency, (before, after) in sorted(seen.totals().items())
    ]
    return {"at": write_moment(seen.at_ms, zone), "lines": [_line(line) for line in seen.lines], "totals": totals}


def _compared(before: PriceBook, step: Step, row: dict[str, Any]) -> dict[str, str]:
    new = step.version
    old = before.find(new.tenant, new.model, new.pool, new.from_ms) if step.change is Change.NEW else None
    if old is None:
        return {}
    was = write_tier(old.tiers[old.tier_of(row["from_tokens"])])
    differing = [name for name in PRICES if was.get(name) != row.get(name)]
    return {name: f"{was.get(name, '–')} → {row.get(name, '–')}" for name in differing}


def _line(line: PreviewLine) -> dict[str, Any]:
    before, after = line.before, line.after
    return {
        "tenant": line.tenant,
        "model": line.model,
        "pool": line.pool,
        "requests": line.requests,
        "currency_before": before.currency if before else None,
        "currency": after.currency if after else None,
        **_amounts(before.nano if before else None, after.nano if after else None, line.difference_nano),
    }


def _amounts(before: int | None, after: int | None, difference: int | None) -> dict[str, str | None]:
    amounts = {"before": before, "after": after, "difference": difference}
    return {name: None if nano is None else format_nano(nano) for name, nano in amounts.items()}
