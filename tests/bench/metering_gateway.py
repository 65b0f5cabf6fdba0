"""
A gateway to compare with: nobody waits for its spool's disk, everything else is as it is.

`python -m tests.bench.metering_gateway does-not`; with any other name it is the gateway as it is.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable

import uvicorn
import uvloop

from gateway.app import Gateway
from gateway.core.usage import MeterEvent
from gateway.settings import load_settings
from gateway.stores.spool import FileSpool
from gateway.telemetry.logs import configure_logs
from tests.servers.edge import config_of


class UnwaitedSpool(FileSpool):
    """Writes and syncs as ever, and says at once that it has."""

    def open(self, event: MeterEvent) -> asyncio.Future[None]:
        super().open(event)
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        durable.set_result(None)
        return durable

    def close(self, event: MeterEvent) -> Awaitable[None]:
        self.requests.closed(event.id)
        self.note(event)
        return asyncio.sleep(0)


class UnwaitedGateway(Gateway):
    def _make_spool(self) -> FileSpool:
        spool = self._settings
        return UnwaitedSpool(spool.spool_dir, spool.gateway_id)


async def main(kind: type[Gateway]) -> None:
    settings = load_settings()
    configure_logs(settings.log_format, settings.log_level)
    gateway = kind(settings)
    await gateway.start()
    with socket.create_server((settings.host, settings.port)) as listener:
        await uvicorn.Server(config_of(gateway)).serve(sockets=[listener])


if __name__ == "__main__":
    uvloop.run(main(UnwaitedGateway if sys.argv[1] == "does-not" else Gateway))
