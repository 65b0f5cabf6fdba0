"""How versions of prices are shown: as JSON with stable names, every number of money a text; as rows for tables."""

from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from gateway.control.price_entries import write_factor, write_moment, write_tier
from gateway.control.prices import PricePlan
from gateway.core.prices import PriceVersion


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
    """Give a version as rows of a table, one per tier; what the further ones share with the first is left out."""
    shared = to_json(version, at_ms, zone)
    tiers = shared.pop("tiers")
    return [{**(shared if number == 0 else {}), **tier} for number, tier in enumerate(tiers)]


def plan_to_json(plan: PricePlan, at_ms: int, zone: ZoneInfo) -> dict[str, Any]:
    """Give a plan as plain data."""
    changes = [{"change": step.change.value, **to_json(step.version, at_ms, zone)} for step in plan.steps]
    return {"counts": plan.counts(), "changes": changes}
