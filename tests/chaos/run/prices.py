"""
The price book of a run: versions that change while it goes on or when a clock is stepped, tiers, a tenant's own, batch.

The amounts are odd on purpose: nearly every event has something to round.
"""

from gateway.core.prices import PriceBook, PriceVersion, Tier, Unit

HOUR_MS = 3_600_000
SECOND_TIER_TOKENS = 300


def versions(now_ms: int) -> list[PriceVersion]:
    """Give the versions of a run that begins at *now_ms*."""
    changes = [now_ms - 1_000 * HOUR_MS, now_ms - HOUR_MS, now_ms + 60_000, now_ms + HOUR_MS, None]
    everybody = [
        _version(f"price_{number}", changes[number], changes[number + 1], 1_000_000 * (1_201 + 333 * number) + 7_000)
        for number in range(len(changes) - 1)
    ]
    own = _version("price_globex", changes[0], None, 777_777_000, tenant="globex")
    return [*everybody, own]


def book(now_ms: int) -> PriceBook:
    return PriceBook.of(versions(now_ms))


def _version(name: str, from_ms: int | None, to_ms: int | None, femto: int, tenant: str = "") -> PriceVersion:
    assert from_ms is not None, "only the last version has no end"
    tiers = (_tier(0, femto), _tier(SECOND_TIER_TOKENS, femto * 2 + 1_000))
    return PriceVersion(
        id=name, model="tiny", tenant=tenant, from_ms=from_ms, to_ms=to_ms, tiers=tiers, batch_thousandths=333
    )


def _tier(from_tokens: int, femto: int) -> Tier:
    return Tier(from_tokens, {Unit.INPUT: femto, Unit.CACHED_INPUT: femto // 4_000 * 1_000, Unit.OUTPUT: 3 * femto})
