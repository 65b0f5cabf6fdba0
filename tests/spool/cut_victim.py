"""
A process that the kernel kills at an exact byte of a write: the one at which a file of its spool exceeds a limit.

Prints `ack`, the id and the completion tokens of each event that `close` has returned for.
"""

import asyncio
import resource
import signal
import sys
from pathlib import Path

from gateway.stores.spool import FileSpool
from tests.spool.victim import CLIENTS, client


async def main(root: str, first: int, bytes_max: int) -> None:
    spool = FileSpool(Path(root), "victim")
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))
    await asyncio.gather(*(client(spool, first + number) for number in range(CLIENTS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
