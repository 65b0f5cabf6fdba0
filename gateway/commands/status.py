"""`sluice status`: whether a request would be served now, and how each part is doing."""

import asyncio
import time
from typing import Any

import httpx
import typer
from rich.console import Console

from gateway.commands.local.gateway_client import GatewayClient, find_gateway
from gateway.commands.output import Format, print_json, print_table
from gateway.commands.records import Home
from gateway.commands.scale import COLUMNS as SCALE_COLUMNS
from gateway.commands.scale import row as scale_row
from gateway.settings import Settings, load_settings

_WORKER_COLUMNS = ("worker", "engine", "pool", "state", "health", "running", "waiting", "restarts", "cause")


def status(
    home: Home = None,
    output: Format = "table",
) -> None:
    """
    Say whether a request would be served now, and how each part is doing.

    The exit status is 0 if a request would be served, 1 if not.
    """
    facts = asyncio.run(_ask(load_settings(home=home)))
    if output == "json":
        print_json(facts)
    else:
        _print(facts, Console())
    raise typer.Exit(0 if facts["ready"] else 1)


async def _ask(settings: Settings) -> dict[str, Any]:
    """
    Collect what the gateway of this home says.

    *ready* needs a ready gateway and a ready worker, or a pool whose first request starts one.
    """
    url, token = find_gateway(settings)
    facts: dict[str, Any] = {
        "ready": False,
        "url": url,
        "gateway": "away",
        "degraded": [],
        "components": {},
        "workers": [],
        "scale": [],
    }
    async with GatewayClient(url, token) as client:
        try:
            readiness = await client.readiness()
            facts |= {"gateway": "ready" if readiness["ready"] else "not ready"}
            facts |= {name: readiness[name] for name in ("degraded", "components")}
            facts["workers"] = await client.workers()
            facts["scale"] = (await client.scale())["pools"]
        except (httpx.HTTPError, ValueError) as error:
            facts["error"] = str(error) or type(error).__name__
    is_served = any(worker["state"] == "ready" for worker in facts["workers"]) or any(map(_wakes, facts["scale"]))
    return facts | {"ready": facts["gateway"] == "ready" and is_served}


def _wakes(pool: dict[str, Any]) -> bool:
    """Tell whether somebody starts a worker of the pool when it is asked for."""
    return bool(pool["is_scaled"] and pool["workers_max"])


def _print(facts: dict[str, Any], console: Console) -> None:
    word = "[green]ready[/]: a request would be served" if facts["ready"] else "[red]not ready[/]"
    console.print(f"{facts['url']} is {word}", highlight=False)
    if "error" in facts:
        console.print(f"The gateway's answer: {facts['error']}", markup=False, highlight=False)
    if facts["components"]:
        print_table(("part", "state", "details"), [_row(*part) for part in facts["components"].items()])
    if facts["workers"]:
        print_table(_WORKER_COLUMNS, [_worker_row(worker, time.time()) for worker in facts["workers"]])
    if any(pool["is_scaled"] for pool in facts["scale"]):
        print_table(SCALE_COLUMNS, [scale_row(pool) for pool in facts["scale"]])


def _worker_row(worker: dict[str, Any], now_s: float) -> dict[str, Any]:
    """Say in a cell how the gateway takes a worker, and for how long; and why, where its engine has nothing to say."""
    health, until_ms = worker.get("health", "").replace("_", "-"), worker.get("health_until_ms")
    left = "" if until_ms is None else f", {max(0.0, until_ms / 1000 - now_s):.0f} s left"
    return worker | {"health": health + left, "cause": worker["cause"] or worker.get("health_reason", "")}


def _row(name: str, part: dict[str, Any]) -> dict[str, str]:
    details = ", ".join(f"{key} {value}" for key, value in part.items() if key not in {"ok", "vital"})
    state = "ok" if part["ok"] else "down" if part["vital"] else "degraded"
    return {"part": name, "state": state, "details": details}
