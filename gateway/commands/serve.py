"""`sluice serve`: one gateway process, in the foreground, until SIGTERM or Ctrl-C."""

import gc
import resource
import socket
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from gateway.app import Gateway
from gateway.commands.server import GatewayServer
from gateway.errors import InvalidInput
from gateway.settings import Settings, load_settings
from gateway.telemetry.logs import configure_logs

# Connections that the kernel keeps for us while the loop is busy: thousands of clients may arrive in the same second.
BACKLOG = 4096
# Net allocations before the youngest are looked through for cycles: some hundred requests' worth, not one's.
COLLECT_EVERY = 20_000

log = structlog.get_logger()


def serve(
    home: Annotated[Path | None, typer.Option(help="Where spool and snapshot are kept. Default: .sluice.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. Default: 8080.")] = None,
    config: Annotated[Path | None, typer.Option(help="A sluice.yaml. Default: ./sluice.yaml, if there.")] = None,
) -> None:
    """
    Run one gateway. Everything else is set by sluice.yaml or SLUICE_* variables: see docs/operators.md.

    SIGTERM makes /readyz say no for `drain_announce_s`, stops accepting, lets requests end for up to `drain_s`, and
    leaves what could not be shipped in the spool.
    """
    settings = load_settings(config=config, home=home, host=host, port=port)
    configure_logs(settings.log_format, settings.log_level)
    _raise_file_limit()
    with _listen(settings) as listener:
        uvloop.run(_run(settings, listener))


async def _run(settings: Settings, listener: socket.socket) -> None:
    gateway = Gateway(settings)
    server = GatewayServer(gateway, settings, listener, BACKLOG)
    await gateway.start()
    _spare_the_collector()
    try:
        address, port = listener.getsockname()[:2]
        log.info("listening", url=f"http://{address}:{port}", gateway=settings.gateway_id)
        await server.run_until_stopped()
    finally:
        await gateway.aclose()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        message = f"The gateway cannot listen on {where}: {error.strerror}. Choose another with --host or --port."
        raise InvalidInput(message) from error


def _spare_the_collector() -> None:
    """
    Leave what is loaded by now out of every collection, and collect less often.

    A full collection stops the loop for as long as it looks through all objects: with 160,000 of modules and libraries
    among them that was 0.1 s, several times in the minute of a burst.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


def _raise_file_limit() -> None:
    """Allow as many connections as the system lets us: each client and each engine connection is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
