"""A lean client for benchmarks: many requests at once over kept connections, so that the client costs little."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gateway.serve.wire import ConnectionPool

TIMEOUT_S = 60


@dataclass
class Load:
    """What came back: answers, chunks read, and the time to each first byte in seconds."""

    answers: int = 0
    frames: int = 0
    first_byte_s: list[float] = field(default_factory=list)


def request_bytes(url: str, key: str, body: dict) -> bytes:
    data = json.dumps(body).encode()
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    head = f"POST {path} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


async def run_load(url: str, key: str, body: dict, *, requests: int, at_once: int) -> Load:
    """Send *requests* copies of *body*, *at_once* at a time; every one must be answered with 200."""
    pool = ConnectionPool(connect_timeout_s=10, keep_alive_s=60)
    load, left = Load(), iter(range(requests))
    data = request_bytes(url, key, body)

    async def client() -> None:
        for _ in left:
            connection = pool.take_idle(url) or await pool.connect(url)
            began = time.perf_counter()
            connection.send(data)
            assert await connection.head(TIMEOUT_S) == 200, await connection.read(TIMEOUT_S)
            first = await connection.read(TIMEOUT_S)
            load.first_byte_s.append(time.perf_counter() - began)
            part = first
            while part:
                load.frames += part.count(b"\n\n")
                part = await connection.read(TIMEOUT_S)
            load.answers += 1
            pool.give_back(url, connection)

    await asyncio.gather(*(client() for _ in range(at_once)))
    pool.close()
    return load
