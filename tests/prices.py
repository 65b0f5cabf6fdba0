"""A small price book for tests: two tiers and a batch factor, then a new version; another model in another currency."""

from gateway.core.prices import PriceVersion, Tier, Unit

PER_MILLION = 10**9  # femto-units of one token at 1.00 per million


def tier(from_tokens, price_in, price_out, **femto):
    """Make a tier with prices per million input and output tokens, in thousandths."""
    thousandth = PER_MILLION // 1000
    named = {Unit(label): value for label, value in femto.items()}
    return Tier(from_tokens, {Unit.INPUT: price_in * thousandth, Unit.OUTPUT: price_out * thousandth, **named})


SHORT = tier(0, 300, 600, cached_input=60_000_000, image=10**12)
LONG = tier(500, 900, 1800)
OLD = PriceVersion(
    id="price_old", model="qwen3", from_ms=0, to_ms=1_795_000_000_000, tiers=(SHORT, LONG), batch_thousandths=500
)
NEW = PriceVersion(id="price_new", model="qwen3", from_ms=1_795_000_000_000, tiers=(tier(0, 150, 333),))
DOLLARS = PriceVersion(id="price_usd", model="qwen3-8b", from_ms=0, currency="USD", tiers=(tier(0, 41, 83),))
HALF = PriceVersion(id="price_half", model="half", from_ms=0, tiers=(Tier(0, {Unit.OUTPUT: 500_000}),))
PRICES = (OLD, NEW, DOLLARS, HALF)
