"""
A process to be killed: requests open, progress and close in its spool as fast as they can, shipped into a database.

Prints `ack`, the id and the completion tokens of each event that `close` has returned for, among its log.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from gateway.core.usage import Usage
from gateway.stores.database import Database
from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from gateway.stores.sql import SqlJournal
from tests.meter_events import event, opened

CLIENTS = 20


async def request(spool, number: int) -> None:
    tokens = random.randint(1, 50)
    spool.open(opened(number))
    for delivered in range(1, tokens, 10):
        await asyncio.sleep(random.uniform(0, 0.005))
        spool.progress(opened(number).id, Usage(10, delivered))
    final = event(number, completion_tokens=tokens)
    await spool.close(final)
    os.write(1, f"ack {final.id} {tokens}\n".encode())


async def client(spool, first: int) -> None:
    for number in range(first, 1 << 30, CLIENTS):
        await request(spool, number)


async def main(root: str, url: str, first: int) -> None:
    spool = FileSpool(Path(root), "victim", segment_bytes=16384)
    shipper = Shipper(spool, SqlJournal(Database(url)), interval_s=0.02, batch=100, adopt_every_s=0.1)
    await shipper.start()
    os.write(1, b"ready\n")
    await asyncio.gather(*(client(spool, first + number) for number in range(CLIENTS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
