"""
Receipts: what a request cost, told with its answer: in headers of a whole one, at the end of a stream.

An amount is that of the meter event, at the price that was frozen when the request arrived; the ledger rates the same
event by the same price, so both say the same nano.
"""

import json
from typing import Any

from gateway.core.money import format_nano
from gateway.core.prices import PriceVersion
from gateway.core.rating import cost_nano, quantities, rate
from gateway.core.usage import MeterEvent
from gateway.serve.metering import MeterRecord
from gateway.serve.wishes import Receipt

Header = tuple[bytes, bytes]


def describe(event: MeterEvent, price: PriceVersion | None) -> dict[str, Any]:
    """
    Give the receipt of *event*: its lines by unit, exact in 1e-15 of the currency, and its cost, rounded once.

    Without a price amounts and cost are None: it is not free, nobody has said what it costs.
    """
    charges = rate(event, price) if price else ()
    femto = {each.unit: each.femto for each in charges}
    nano = cost_nano(charges) if price else None
    return {
        "object": "sluice.receipt",
        "id": event.id,
        "model": event.model,
        "service_class": event.service_class,
        "rule": event.flag,
        "price": price.id if price else None,
        "tier": price.tier_of(event.prompt_tokens) if price else None,
        "currency": price.currency if price else None,
        "lines": [
            {"unit": unit.value, "quantity": quantity, "femto": femto.get(unit)}
            for unit, quantity in quantities(event).items()
        ],
        "cost_nano": nano,
        "cost": None if nano is None else format_nano(nano),
    }


def headers(record: MeterRecord) -> list[Header]:
    """
    Give the headers of a whole answer: what of its prompt was cached, its cost, and the receipt if it was asked for.

    It has a cost if it has a price.
    """
    event, price = record.settled, record.price
    found: list[Header] = [(b"x-sluice-cached-tokens", b"%d" % event.cached_tokens)] if event.worker else []
    if price is not None:
        nano = cost_nano(rate(event, price))
        found += [
            (b"x-sluice-cost-nano", b"%d" % nano),
            (b"x-sluice-currency", price.currency.encode()),
            (b"x-sluice-price", price.id.encode()),
        ]
    if record.wished.receipt is not Receipt.NONE:
        found.append((b"x-sluice-receipt", json.dumps(describe(event, price)).encode()))
    return found


def frame(record: MeterRecord) -> bytes:
    """Give what stands before a stream's [DONE]: nothing, a comment, or a chunk without choices."""
    wished = record.wished.receipt
    if wished is Receipt.NONE:
        return b""
    receipt = describe(record.settled, record.price)
    if wished is Receipt.CHUNK:
        return b"data: " + json.dumps(_chunk(record.settled, receipt)).encode() + b"\n\n"
    # An SDK for Go before 3.43 breaks on the blank line after a comment; without it this is a part of [DONE]'s event.
    end = b"\n" if record.wished.is_old_go else b"\n\n"
    return b": receipt " + json.dumps(receipt).encode() + end


def _chunk(event: MeterEvent, receipt: dict[str, Any]) -> dict[str, Any]:
    """Dress a receipt as the chunk that SDKs give to a program, as they do the one with the usage."""
    created = event.arrived_ms // 1000
    head = {"id": f"chatcmpl-{event.id}", "object": "chat.completion.chunk", "created": created, "model": event.model}
    return {**head, "choices": [], "sluice_receipt": receipt}
