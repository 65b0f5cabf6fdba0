"""`sluice scale`: how many workers each pool should have and why; and the scaler that KEDA asks for it."""

import asyncio
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

import httpx
import typer

from gateway.commands.local.gateway_client import GatewayClient, find_gateway
from gateway.commands.output import Format, print_json, print_table
from gateway.commands.records import Home
from gateway.errors import InvalidInput, StartFailed
from gateway.scaler.follow import Follower
from gateway.settings import load_settings
from gateway.telemetry.logs import configure_logs

WATCH_S = 1.0
STOP_S_MAX = 2.0  # for calls under way; streams end when the server does

app = typer.Typer(no_args_is_help=True, help="How many workers pools should have: the decision, and KEDA's scaler.")

COLUMNS = (
    *("pool", "arrive tokens/s", "wait tokens", "wait s", "worker tokens/s", "requests"),
    *("ready", "starting", "draining", "desired", "reason"),
)


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Print it again every second, until Ctrl-C.")] = False,
    home: Home = None,
    output: Format = "table",
) -> None:
    """
    Show what arrives at each pool, what waits, what a worker does, and how many workers there should be, and why.

    Example: sluice scale status --watch
    """
    with suppress(KeyboardInterrupt):
        while True:
            show(asyncio.run(ask(home)), output)
            if not watch:
                return
            time.sleep(WATCH_S)


@app.command()
def serve(
    listen: Annotated[str, typer.Option(help="HOST:PORT that KEDA reaches; port 0 takes a free one.")] = "0.0.0.0:9090",
    gateway: Annotated[
        list[str] | None, typer.Option(help="A gateway to follow; the next one if it is away. [repeatable]")
    ] = None,
    home: Home = None,
) -> None:
    """
    Answer KEDA's triggers of the type `external-push`: whether a pool needs a worker, at once, and how many.

    It follows any gateway with the token in SLUICE_ADMIN_TOKEN, and holds on to the last word when all are away.

    Example: sluice scale serve --listen 0.0.0.0:9090 --gateway http://sluice-gateway:8080
    """
    settings = load_settings(home=home)
    configure_logs(settings.log_format, settings.log_level)
    found, token = find_gateway(settings)
    asyncio.run(_serve(listen, Follower(gateway or [found], token, "keda")))


async def ask(home: Any) -> dict[str, Any]:
    """Ask the gateway of this home. Raises StartFailed if it does not answer."""
    url, token = find_gateway(load_settings(home=home))
    async with GatewayClient(url, token) as client:
        try:
            return await client.scale()
        except httpx.HTTPError as error:
            message = f"The gateway at {url} does not answer: {error or type(error).__name__}. Is it running?"
            raise StartFailed(message) from error


def show(said: Mapping[str, Any], output: str) -> None:
    """Print decisions as a table or as JSON."""
    if output == "json":
        print_json({"pools": said["pools"]})
    else:
        print_table(COLUMNS, [row(pool) for pool in said["pools"]])


def row(pool: Mapping[str, Any]) -> dict[str, Any]:
    """Make a line of the table."""
    guess = "" if pool["is_rate_known"] else " (guess)"
    requests = pool["requests"]
    figures = {
        "arrive tokens/s": round(pool["arrival_rate"]),
        "wait tokens": pool["backlog_tokens"],
        "wait s": pool["backlog_s"],
        "worker tokens/s": f"{pool['rate_per_worker']:,.0f}{guess}",
        "requests": f"{requests['waiting']} wait, {requests['in_flight']} run",
    }
    bounds = (
        f"{pool['desired']} of {pool['workers_min']}..{'–' if pool['workers_max'] is None else pool['workers_max']}"
    )
    return {"pool": pool["pool"], **figures, **pool["workers"], "desired": bounds, "reason": pool["reason"]}


async def _serve(listen: str, follower: Follower) -> None:
    try:
        from gateway.scaler.keda import KedaScaler, make_server  # noqa: PLC0415  gRPC is an extra
    except ImportError as error:
        raise InvalidInput(f"{error.name} is not installed: it comes with the extra `scaler`.") from error
    try:
        server, port = make_server(KedaScaler(follower), listen)
    except RuntimeError as error:
        raise InvalidInput(f"The scaler cannot listen on {listen}. Choose another HOST:PORT with --listen.") from error
    await server.start()
    typer.echo(f"listening on {listen.rpartition(':')[0]}:{port}")
    following, stopped = asyncio.create_task(follower.run()), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    following.cancel()
    await server.stop(STOP_S_MAX)
