"""Clients of a gateway that is killed and cut off on purpose: each asking ends in an Ending, never in a raise."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from gateway.core.sse import DONE, last_usage
from gateway.core.usage import Usage
from gateway.serve.wire import ConnectionBroken, ConnectionPool, TookTooLong
from tests.bench.load import request_bytes
from tests.servers.process import Process

COUNTED = {"include_usage": True, "continuous_usage_stats": True}
TIMEOUT_S = 60


@dataclass
class Ending:
    """How one asking ended for the client. *status* 0: no answer came at all."""

    request_id: str = ""
    worker: str = ""
    status: int = 0
    body: bytes = b""
    is_whole: bool = False
    asked: dict = field(default_factory=dict)
    pause_s: float = 0.0  # the longest without a byte, once there was one
    trouble: str = ""  # what broke it off, on the way or at the gateway

    @property
    def is_finished(self) -> bool:
        """The client has its whole answer: a body, or a stream up to [DONE]."""
        is_stream = not self.body.startswith(b"{")
        return self.status == 200 and self.is_whole and (self.body.endswith(DONE) or not is_stream)

    @property
    def has_error_event(self) -> bool:
        return b'data: {"error"' in self.body

    @property
    def is_silent(self) -> bool:
        """A stream that began, then ended as if nothing were wrong, with neither [DONE] nor an error."""
        return self.status == 200 and self.is_whole and not self.is_finished and not self.has_error_event

    @property
    def is_begun_stream(self) -> bool:
        """It has brought content, and goes on."""
        return not self.is_whole and b'"delta":{"content"' in self.body and not self.body.endswith(DONE)

    @property
    def text(self) -> str:
        """What was said in it."""
        whole = self.body.startswith(b"{")
        lines = [self.body] if whole else [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: {")]
        choices = [choice for line in lines for choice in json.loads(line).get("choices", ())]
        return "".join(_said(choice) for choice in choices)

    @property
    def usage(self) -> Usage:
        return last_usage(self.body) or Usage()


def _said(choice: dict) -> str:
    if "text" in choice:
        return choice["text"]
    return (choice.get("delta") or choice.get("message") or {}).get("content") or ""


async def ask(
    connections: ConnectionPool, url: str, key: str, body: dict, watched: list[Ending] | None = None
) -> Ending:
    """Send one chat completion and read what comes; *watched* gets the ending while it is still under way."""
    ending = Ending(asked=body)
    if watched is not None:
        watched.append(ending)
    try:
        connection = connections.take_idle(url) or await connections.connect(url)
    except (ConnectionBroken, TookTooLong) as error:
        ending.trouble = f"connecting: {error}"
        return ending
    try:
        connection.send(request_bytes(url, key, body))
        ending.status = await connection.head(TIMEOUT_S)
        ending.request_id = connection.headers[b"x-request-id"].decode()
        ending.worker = connection.headers.get(b"x-sluice-worker", b"").decode()
        at_s = time.monotonic()
        while part := await connection.read(TIMEOUT_S):
            before_s, at_s = at_s, time.monotonic()
            ending.pause_s = max(ending.pause_s, at_s - before_s if ending.body else 0.0)
            ending.body += part
        ending.is_whole = True
    except (ConnectionBroken, TookTooLong) as error:
        ending.trouble = str(error)
    finally:
        connections.give_back(url, connection)
    return ending


def any_body(dice: random.Random, tokens: tuple[int, int] = (1, 60)) -> dict:
    """Make a request, plain or streamed, short or long, as the dice fall."""
    words = " ".join(dice.choice(["river", "gate", "water", "lock"]) for _ in range(dice.randint(3, 80)))
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": words}],
        "max_tokens": dice.randint(*tokens),
        "ignore_eos": True,
        "temperature": 0,
    }
    return body | ({"stream": True, "stream_options": COUNTED} if dice.random() < 0.6 else {})


async def keep_asking(
    url: Callable[[], str],
    key: str,
    *,
    clients: int,
    stop: asyncio.Event,
    seed: int,
    tokens: tuple[int, int] = (1, 60),
    watched: list[Ending] | None = None,
) -> list[Ending]:
    """
    Let *clients* ask one request after another until *stop*; a client that cannot connect tries again soon.

    *tokens* bounds each answer: the longer they are, the more streams are under way at any moment.
    *watched* gets every ending as soon as it is asked for, so that a test can strike in the middle of some.
    """
    endings: list[Ending] = []

    async def client(number: int) -> None:
        dice = random.Random(f"{seed}/{number}")
        connections = ConnectionPool(connect_timeout_s=5, keep_alive_s=30)
        while not stop.is_set():
            ending = await ask(connections, url(), key, any_body(dice, tokens), watched)
            endings.append(ending)
            if ending.status == 0:
                await asyncio.sleep(0.05)
        connections.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return endings


async def freeze_amid_streams(
    worker: Process, watched: list[Ending], *, tokens_max: int = 100, count: int = 3, within_s: float = 60
) -> None:
    """
    Freeze *worker* while it is at the beginning of *count* streams, each with content and *tokens_max* tokens at most.

    Streams of one batch run in step, and clients read late what was sent long ago: only when a frozen worker's streams
    have been read to where they stand is it certain that some are unfinished. If too few are, it goes on for a while.
    """
    async with asyncio.timeout(within_s):
        while True:
            await _until_begun(worker.name, watched, tokens_max, count)
            worker.freeze_tree()
            await _until_read(worker.name, watched)
            if _begun_on(worker.name, watched, inf) >= count:
                return
            worker.thaw_tree()


async def _until_begun(worker: str, watched: list[Ending], tokens_max: int, count: int) -> None:
    while _begun_on(worker, watched, tokens_max) < count:
        await asyncio.sleep(0.01)


def _begun_on(worker: str, watched: list[Ending], tokens_max: float) -> int:
    return sum(e.worker == worker and e.is_begun_stream and e.usage.completion <= tokens_max for e in watched)


async def _until_read(worker: str, watched: list[Ending], quiet_s: float = 0.3) -> None:
    """Wait until what *worker* sent has been read: *quiet_s* without a new byte of it."""
    before: list[int] = []
    while (now := [len(ending.body) for ending in watched if ending.worker == worker]) != before:
        before = now
        await asyncio.sleep(quiet_s)
