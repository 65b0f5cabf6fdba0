"""A receiver of webhooks, on a real socket, that answers as it is told."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class Message:
    """What one request brought."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Answers each request with the next of *statuses*, then with 204; `messages` is what came."""

    def __init__(self, statuses: list[int]) -> None:
        self._statuses = statuses
        self.messages: list[Message] = []
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.messages.append(Message(head[0].split()[1], headers, body))
        status = self._statuses.pop(0) if self._statuses else 204
        place = f"location: {self.url}/elsewhere\r\n" if status == 302 else ""
        writer.write(f"HTTP/1.1 {status} -\r\n{place}content-length: 0\r\nconnection: close\r\n\r\n".encode())
        writer.close()


@asynccontextmanager
async def receiver(*statuses: int):
    """Run a receiver on a free port of this machine."""
    told = Receiver(list(statuses))
    server = await asyncio.start_server(told.answer, "127.0.0.1", 0)
    async with server:
        told.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield told
