"""The gateway's HTTP server as tests run it, in their own loop."""

import uvicorn

from gateway.commands.server import KEEP_ALIVE_S
from gateway.serve.protocol import SluiceProtocol


def config_of(gateway) -> uvicorn.Config:
    """
    Configure uvicorn as `sluice serve` does.

    A client in the same loop would lose its connection to uvicorn's own limit of 5 s whenever both stand still.
    """
    return uvicorn.Config(
        gateway.edge,
        http=SluiceProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
