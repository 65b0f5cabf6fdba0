"""/admin/v1/prices: the price book over HTTP. What is sent is a price file: JSON, YAML or CSV by its content type."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query, Request, Response

from gateway.control.price_files import FILE_BYTES_MAX, read_prices, write_prices
from gateway.control.price_views import State, plan_to_json, select_prices, state_of, to_json
from gateway.control.prices import Permits, PricePlan, carry_out, plan_import, plan_withdrawal
from gateway.core.prices import PriceVersion
from gateway.core.zones import load_zone
from gateway.errors import InvalidInput
from gateway.ports.budgets import BudgetStore
from gateway.ports.directory import DirectoryStore

MEDIA_TYPES = {"yaml": "application/yaml", "csv": "text/csv; charset=utf-8", "json": "application/json"}
_FORMS = {"application/json": "json", "text/csv": "csv", "application/yaml": "yaml", "text/yaml": "yaml"}

_Filter = Annotated[str | None, Query()]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A price file as it came, and what its import may do."""

    content: bytes
    form: str
    permits: Permits


async def _sent(
    request: Request, backdate: bool = False, allow_gaps: bool = False, allow_unknown_models: bool = False
) -> _Sent:
    """Read the body. Raises InvalidInput for a content type that is no price file's."""
    named = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    form = _FORMS.get(named)
    if form is None:
        raise InvalidInput(f"The content type {named[:100]!r} is no price file's. Send one of {', '.join(_FORMS)}.")
    permits = Permits(backdate=backdate, gaps=allow_gaps, unknown_models=allow_unknown_models)
    return _Sent(await _body(request), form, permits)


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > FILE_BYTES_MAX:
            raise InvalidInput(f"The body is too long. The most is {FILE_BYTES_MAX} bytes: split it by models.")
    return bytes(content)


def prices_router(
    directory: DirectoryStore, ledger: BudgetStore | None, now_ms: Callable[[], int], zone_name: str
) -> APIRouter:
    """
    Make the routes; *zone_name* is the zone of dates where neither the file nor the request names one.

    Prices are held against the balances in *ledger*, if there is one, besides the budgets.
    """
    router = APIRouter(prefix="/prices")
    _add_reading(router, directory, now_ms, zone_name)
    _add_writing(router, directory, ledger, now_ms, zone_name)
    return router


def _add_reading(router: APIRouter, directory: DirectoryStore, now_ms: Callable[[], int], zone_name: str) -> None:
    @router.get("")
    def list_prices(model: _Filter = None, tenant: _Filter = None, zone: str = zone_name) -> dict[str, Any]:
        now, shown = now_ms(), {State.IN_FORCE, State.AHEAD}
        found = (each for each in select_prices(directory.prices(), model, tenant) if state_of(each, now) in shown)
        return _listed(found, now, load_zone(zone))

    @router.get("/history")
    def list_history(model: _Filter = None, tenant: _Filter = None, zone: str = zone_name) -> dict[str, Any]:
        return _listed(select_prices(directory.prices(), model, tenant), now_ms(), load_zone(zone))

    @router.get("/export")
    def export_prices(
        form: Annotated[Literal["yaml", "csv", "json"], Query(alias="format")] = "yaml",
        model: _Filter = None,
        tenant: _Filter = None,
        zone: str = zone_name,
    ) -> Response:
        text = write_prices(select_prices(directory.prices(), model, tenant), form, load_zone(zone))
        return Response(text, media_type=MEDIA_TYPES[form])


def _add_writing(
    router: APIRouter,
    directory: DirectoryStore,
    ledger: BudgetStore | None,
    now_ms: Callable[[], int],
    zone_name: str,
) -> None:
    def plan(sent: _Sent, at_ms: int, zone: ZoneInfo) -> PricePlan:
        entries = read_prices(sent.content, sent.form, "body", zone)
        return plan_import(directory, entries, now_ms=at_ms, permits=sent.permits, zone=zone, ledger=ledger)

    @router.post("/diff")
    def diff_prices(sent: Annotated[_Sent, Depends(_sent)], zone: str = zone_name) -> dict[str, Any]:
        now, named = now_ms(), load_zone(zone)
        return plan_to_json(plan(sent, now, named), now, named)

    @router.post("/import")
    def import_prices(sent: Annotated[_Sent, Depends(_sent)], zone: str = zone_name) -> dict[str, Any]:
        now, named = now_ms(), load_zone(zone)
        done = plan(sent, now, named)
        carry_out(directory, done)
        return plan_to_json(done, now, named)

    @router.post("/{price_id}/withdraw")
    @router.delete("/{price_id}")
    def withdraw_price(price_id: str, zone: str = zone_name) -> dict[str, Any]:
        now, named = now_ms(), load_zone(zone)
        done = plan_withdrawal(directory, price_id, now_ms=now, zone=named, ledger=ledger)
        carry_out(directory, done)
        return plan_to_json(done, now, named)


def _listed(versions: Iterable[PriceVersion], at_ms: int, zone: ZoneInfo) -> dict[str, Any]:
    return {"object": "list", "data": [to_json(each, at_ms, zone) for each in versions]}
