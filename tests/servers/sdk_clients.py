"""Clients with the official SDK and a list of gateways, which know nothing of retries but to try the next address."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from openai import AsyncOpenAI, OpenAIError


class GatewayList(httpx.AsyncBaseTransport):
    """
    Sends each request to the first of *urls* that takes the connection, beginning with the last that did.

    Only a connection that is refused is tried again: nothing of the request has been sent then.
    """

    def __init__(self, urls: Sequence[str], first: int = 0) -> None:
        self._urls = [httpx.URL(url) for url in urls]
        self._place = first % len(urls)
        self._transport = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(10 * len(self._urls)):
            gateway = self._urls[self._place]
            request.url = request.url.copy_with(scheme=gateway.scheme, host=gateway.host, port=gateway.port)
            try:
                return await self._transport.handle_async_request(request)
            except httpx.ConnectError:
                self._place = (self._place + 1) % len(self._urls)
                await asyncio.sleep(0.05)
        raise httpx.ConnectError("no gateway takes the connection")

    async def aclose(self) -> None:
        await self._transport.aclose()


@dataclass
class Tally:
    """How requests ended: the ids of those that were answered whole, and what the SDK raised for the others."""

    plain: int = 0
    streams: int = 0
    tokens: dict[str, int] = field(default_factory=dict)  # by request id, as the answer's usage says
    failures: list[str] = field(default_factory=list)


async def keep_asking_by_sdk(
    urls: Sequence[str], key: str, *, clients: int, stop: asyncio.Event, seed: int, tokens: tuple[int, int] = (1, 120)
) -> Tally:
    """Let *clients* ask one request after another until *stop*, half of them streams; the SDK retries nothing."""
    tally = Tally()

    async def client(number: int) -> None:
        dice = random.Random(f"{seed}/{number}")
        http = httpx.AsyncClient(transport=GatewayList(urls, number), timeout=60)
        async with AsyncOpenAI(api_key=key, base_url="http://gateways/v1", http_client=http, max_retries=0) as openai:
            while not stop.is_set():
                try:
                    await _ask(openai, dice, tokens, tally)
                except (OpenAIError, httpx.HTTPError) as error:
                    tally.failures.append(f"{type(error).__name__}: {error} ({error.__cause__!r})")

    await asyncio.gather(*(client(number) for number in range(clients)))
    return tally


async def _ask(openai: AsyncOpenAI, dice: random.Random, tokens: tuple[int, int], tally: Tally) -> None:
    asked = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"river {dice.random()}"}],
        "max_tokens": dice.randint(*tokens),
        "extra_body": {"ignore_eos": True},
    }
    if dice.random() < 0.5:
        whole = await openai.chat.completions.with_raw_response.create(**asked)
        tally.plain += 1
        tally.tokens[whole.headers["x-request-id"]] = whole.parse().usage.completion_tokens
        return
    raw = await openai.chat.completions.with_raw_response.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    usage = None
    async for chunk in raw.parse():
        usage = chunk.usage or usage
    tally.streams += 1
    assert usage is not None, "a stream that ends without an error has its usage"
    tally.tokens[raw.headers["x-request-id"]] = usage.completion_tokens
