"""
What a price file says of one version, whatever its form: read and checked by itself, and written again.

Checks that need the price book or the Directory are those of `prices.py` and `price_checks.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from zoneinfo import ZoneInfo

from gateway.control.names import check_name
from gateway.core.money import CURRENCY, check_currency, format_scaled, parse_scaled, shown
from gateway.core.prices import FACTOR_DECIMALS, FACTOR_ONE, PriceVersion, Tier, Unit, format_price, parse_price
from gateway.core.zones import first_moment, local_time, parse_instant
from gateway.errors import InvalidInput

PRICES: Mapping[str, Unit] = MappingProxyType(
    {unit.value if unit is not Unit.AUDIO else "audio_second": unit for unit in Unit}
)
REQUIRED_PRICES = ("input", "output")
FROM_TOKENS = "from_tokens"
VERSION_FIELDS = ("model", "pool", "tenant", "from", "to", "currency", "batch_factor")
TIER_FIELDS = (FROM_TOKENS, *PRICES)
_ENTRY_FIELDS = (*VERSION_FIELDS, *PRICES, "tiers")

PRICE_MAX = 1_000_000  # per million tokens: one unit of the currency for each token
PIECE_PRICE_MAX = 10_000  # per image, or per second of audio
TIERS_MAX = 20
TOKENS_MAX = 10**9
# What lies outside of these years, in any zone, is a slip; and dates near 9999 overflow in some zones.
YEAR_MIN, YEAR_MAX = 2000, 2199
MOMENT_MS_MIN = parse_instant(f"{YEAR_MIN}-01-01T00:00+14:00", ZoneInfo("UTC"), "")
MOMENT_MS_MAX = parse_instant(f"{YEAR_MAX + 1}-01-01T00:00-12:00", ZoneInfo("UTC"), "")

Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Written:
    """An entry as texts: what stands there, *where*; each tier, the first from 0 tokens, says where too."""

    where: str
    fields: Fields
    tiers: Sequence[tuple[str, Fields]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceEntry:
    """A version as a file states it, at *where*; *to_ms* None: until the next one of its scope, or further notice."""

    where: str
    model: str
    pool: str
    tenant: str
    from_ms: int
    to_ms: int | None
    currency: str
    batch_thousandths: int
    tiers: tuple[Tier, ...]

    @property
    def scope(self) -> tuple[str, str, str]:
        return self.model, self.pool, self.tenant


def read_entry(written: Written, zone: ZoneInfo) -> PriceEntry:
    """Read an entry; dates are midnights in *zone*. Raises InvalidInput that names the place and the field."""
    where, fields = written.where, written.fields
    _check_fields(where, fields, VERSION_FIELDS, ("model", "from"))
    for name in ("model", "pool", "tenant"):
        if fields.get(name):
            check_name(f"{where}: {name}", fields[name])
    from_ms, to_ms = _read_interval(where, fields, zone)
    return PriceEntry(
        where=where,
        model=fields["model"],
        pool=fields.get("pool", ""),
        tenant=fields.get("tenant", ""),
        from_ms=from_ms,
        to_ms=to_ms,
        currency=check_currency(fields.get("currency") or CURRENCY, f"{where}: currency"),
        batch_thousandths=_read_factor(where, fields.get("batch_factor", "")),
        tiers=_read_tiers(written),
    )


def write_entry(version: PriceVersion, to_ms: int | None, moment: Callable[[int], str]) -> Written:
    """Give *version* as texts, with times as *moment* writes them; fields that say nothing are left out."""
    texts = {
        "model": version.model,
        "pool": version.pool,
        "tenant": version.tenant,
        "from": moment(version.from_ms),
        "to": "" if to_ms is None else moment(to_ms),
        "currency": version.currency,
        "batch_factor": "" if version.batch_thousandths == FACTOR_ONE else write_factor(version),
    }
    tiers = [("", write_tier(tier)) for tier in version.tiers]
    return Written(version.id, {name: text for name, text in texts.items() if text}, tiers)


def write_tier(tier: Tier) -> dict[str, str]:
    """Give a tier as texts."""
    prices = {name: format_price(tier.femto[unit], unit) for name, unit in PRICES.items() if unit in tier.femto}
    return {FROM_TOKENS: str(tier.from_tokens), **prices}


def write_factor(version: PriceVersion) -> str:
    """Give the factor of class batch as text."""
    return format_scaled(version.batch_thousandths, FACTOR_DECIMALS)


def write_moment(at_ms: int, zone: ZoneInfo) -> str:
    """Write an instant as `parse_instant` reads it: a date where that is all, else with its offset."""
    local = local_time(at_ms, zone)
    return local.date().isoformat() if first_moment(local.date(), zone) == at_ms else local.isoformat()


def _check_fields(where: str, fields: Fields, known: Sequence[str], required: Sequence[str]) -> None:
    for name in fields:
        if name not in known:
            named = ", ".join(_ENTRY_FIELDS if known is VERSION_FIELDS else known)
            raise InvalidInput(f"{where}: there is no field {shown(name)} here. Known are {named}.")
    for name in required:
        if not fields.get(name, "").strip():
            raise InvalidInput(f"{where}: {name} is missing. Give {', '.join(required)}.")


def _read_interval(where: str, fields: Fields, zone: ZoneInfo) -> tuple[int, int | None]:
    from_ms = _read_moment(where, "from", fields["from"], zone)
    if not fields.get("to", "").strip():
        return from_ms, None
    to_ms = _read_moment(where, "to", fields["to"], zone)
    if to_ms <= from_ms:
        advice = "A version lasts until before `to`; without it, until the next one of its scope."
        raise InvalidInput(f"{where}: from {fields['from']} is not before to {fields['to']}. {advice}")
    return from_ms, to_ms


def _read_moment(where: str, name: str, text: str, zone: ZoneInfo) -> int:
    at_ms = parse_instant(text.strip(), zone, f"{where}: {name}")
    if not MOMENT_MS_MIN <= at_ms < MOMENT_MS_MAX:
        raise InvalidInput(f"{where}: {name} {shown(text)} is not of the years {YEAR_MIN} to {YEAR_MAX}.")
    return at_ms


def _read_factor(where: str, text: str) -> int:
    if not text.strip():
        return FACTOR_ONE
    thousandths = parse_scaled(text, FACTOR_DECIMALS, f"{where}: batch_factor")
    if not 0 <= thousandths <= FACTOR_ONE:
        advice = "Give 0 to 1: 0.5 halves the prices of class batch."
        raise InvalidInput(f"{where}: batch_factor {shown(text)} is out of range. {advice}")
    return thousandths


def _read_tiers(written: Written) -> tuple[Tier, ...]:
    if len(written.tiers) > TIERS_MAX:
        raise InvalidInput(f"{written.where}: has {len(written.tiers)} tiers. The most is {TIERS_MAX}.")
    first = _priced(written.tiers[0][1])
    tiers: list[Tier] = []
    for where, fields in written.tiers:
        _check_fields(where, fields, TIER_FIELDS, REQUIRED_PRICES)
        if differing := sorted(_priced(fields) ^ first):
            advice = "Every tier prices the same: what it left out would fall back to input or output, or to nothing."
            raise InvalidInput(f"{where}: {differing[0]} is priced in one tier and not in another. {advice}")
        start = _read_start(where, fields.get(FROM_TOKENS, ""), tiers)
        tiers.append(Tier(start, {unit: _read_price(where, name, unit, fields) for name, unit in _named(fields)}))
    return tuple(tiers)


def _priced(fields: Fields) -> set[str]:
    return {name for name, _ in _named(fields)}


def _named(fields: Fields) -> list[tuple[str, Unit]]:
    return [(name, unit) for name, unit in PRICES.items() if fields.get(name, "").strip()]


def _read_start(where: str, text: str, before: Sequence[Tier]) -> int:
    """Read where a tier starts, after all those *before* it; the first at 0."""
    start = parse_scaled(text, 0, f"{where}: {FROM_TOKENS}") if text.strip() else 0
    if not before and start:
        raise InvalidInput(f"{where}: {FROM_TOKENS} {shown(text)} is that of the first tier, which starts at 0.")
    if before and not before[-1].from_tokens < start <= TOKENS_MAX:
        advice = f"Tiers ascend, up to {TOKENS_MAX}, and each is given once."
        raise InvalidInput(f"{where}: {FROM_TOKENS} {start} does not come after {before[-1].from_tokens}. {advice}")
    return start


def _read_price(where: str, name: str, unit: Unit, fields: Fields) -> int:
    text, what = fields[name], f"{where}: {name}"
    femto = parse_price(text, unit, what)
    limit = PIECE_PRICE_MAX if unit in {Unit.IMAGE, Unit.AUDIO} else PRICE_MAX
    if femto < 0:
        raise InvalidInput(f"{what} {shown(text)} is negative. Give 0 or more.")
    if femto > parse_price(str(limit), unit, what):
        per = {Unit.IMAGE: "image", Unit.AUDIO: "second"}.get(unit, "million tokens")
        raise InvalidInput(f"{what} {shown(text)} is too large. The most is {limit} per {per}; was the unit another?")
    return femto
