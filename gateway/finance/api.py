"""/finance/v1: reports over HTTP, behind the admin token. Reads the Journal, writes nothing."""

import json
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Response
from pydantic import SecretStr

from gateway.core.zones import load_zone, parse_interval
from gateway.finance.reconcile import reconcile
from gateway.finance.reports import UsageQuery, parse_groups, usage_report
from gateway.planes import plane_app
from gateway.ports.journal import JournalReader
from gateway.ports.work import WorkReader

PREFIX = "/finance/v1"

_Text = str | None


def finance_app(
    journal: JournalReader,
    work: WorkReader,
    token: SecretStr | None,
    zone: str = "UTC",
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> FastAPI:
    """Make the app of the finance plane; *zone* is that of reports that name none."""
    app = plane_app("Sluice finance", token, "SLUICE_ADMIN_TOKEN")

    @app.get(f"{PREFIX}/usage")
    def usage(
        start: Annotated[_Text, Query(alias="from")] = None,
        end: Annotated[_Text, Query(alias="to")] = None,
        zone: str = zone,
        group_by: str = "",
        tenant: _Text = None,
        lines: bool = False,
        output: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
    ) -> Response:
        named = load_zone(zone)
        from_ms, to_ms = parse_interval(start, end, named, now_ms())
        groups = parse_groups(group_by)
        query = UsageQuery(from_ms=from_ms, to_ms=to_ms, zone=named, group_by=groups, tenant=tenant)
        report = usage_report(journal, query)
        if output == "csv":
            return Response(report.to_csv(lines=lines), media_type="text/csv")
        return Response(json.dumps(report.to_json()), media_type="application/json")

    @app.get(f"{PREFIX}/reconcile")
    def compare(
        start: Annotated[_Text, Query(alias="from")] = None,
        end: Annotated[_Text, Query(alias="to")] = None,
        zone: str = zone,
    ) -> dict[str, Any]:
        named = load_zone(zone)
        from_ms, to_ms = parse_interval(start, end, named, now_ms())
        return reconcile(work, from_ms, to_ms, named).to_json()

    return app
