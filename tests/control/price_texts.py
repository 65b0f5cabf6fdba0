"""Price files as people write them, and a clock at which they are read."""

from zoneinfo import ZoneInfo

from gateway.control.price_entries import PriceEntry
from gateway.control.price_files import read_prices
from gateway.control.prices import Permits, PricePlan, carry_out, plan_import
from gateway.core.zones import parse_instant

SHANGHAI = ZoneInfo("Asia/Shanghai")


def at(text: str, zone: ZoneInfo = SHANGHAI) -> int:
    """Give the instant of a date or date-time in Unix milliseconds."""
    return parse_instant(text, zone, "test")


NOW_MS = at("2026-11-22T12:00")


def entry(starts: str = "2027-01-01", **fields: object) -> str:
    """Write an entry as JSON, which is YAML too; fields that are None are left out."""
    every = {"model": "qwen3", "from": starts, "input": "0.5", "output": "2"} | fields
    return "{" + ", ".join(f'"{name}": "{value}"' for name, value in every.items() if value is not None) + "}"


def price_file(*entries: str, head: str = "zone: Asia/Shanghai") -> bytes:
    """Write a file of entries."""
    return "\n".join([head, "prices:", *(f"- {each}" for each in entries)]).encode()


def read(*entries: str) -> tuple[PriceEntry, ...]:
    return read_prices(price_file(*entries), "yaml", "prices.yaml", SHANGHAI)


def plan(directory, *entries: str, now_ms: int = NOW_MS, **permits: bool) -> PricePlan:
    return plan_import(directory, read(*entries), now_ms=now_ms, permits=Permits(**permits), zone=SHANGHAI)


def take_in(directory, *entries: str, now_ms: int = NOW_MS, **permits: bool) -> PricePlan:
    """Import entries; gives what was done."""
    done = plan(directory, *entries, now_ms=now_ms, **permits)
    carry_out(directory, done)
    return done
