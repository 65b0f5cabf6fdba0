"""
Messages to addresses that strangers named: checked, signed, sent at most once at a time.

The name is resolved and checked anew at each attempt, and the connection goes to the very address that was checked, so
that a name which changes its mind in between leads nowhere. Redirects are not followed.
"""

import asyncio
import json
import random
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from gateway.core.outcome import Outcome
from gateway.core.webhooks import is_public, signature, tenant_secret
from gateway.errors import Refused
from gateway.ports.jobs import DueWebhook

HEADER = "X-Webhook-Url"
URL_CHARS_MAX = 2048
RESOLVE_S_MAX = 5.0
PAUSE_S_MAX = 3600.0
DOUBLINGS_MAX = 20
_GONE = 410  # Standard Webhooks: the receiver wants no more of them

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRules:
    """Who may be told, and how hard it is tried; without a *secret* nobody can be."""

    secret: str = field(repr=False)
    allows_http: bool
    allows_private: bool
    timeout_s: float
    pause_s: float
    retry_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """
    What is sent to *url*, for the *attempt*-th time (from 1), signed with the secret of *tenant*.

    *id* stays the same over attempts; *about* is what the log names; *since_ms* is when it was first to be sent.
    """

    id: str
    about: str
    tenant: str
    url: str = field(repr=False)
    attempt: int
    since_ms: int


class AddressRefused(Exception):  # noqa: N818
    """A webhook's address must not or cannot be connected to; says why."""


class Webhooks:
    """Checks addresses and sends messages. *on_end* is told how each attempt ended: delivered, retried or given_up."""

    def __init__(self, rules: WebhookRules, now_ms: Callable[[], int], on_end: Callable[[str], None]) -> None:
        self._rules = rules
        self._now_ms = now_ms
        self._on_end = on_end
        # Without proxies: one would resolve the name once more. Without kept connections: each is to a checked address.
        # SSL_CERT_FILE, where it is set, names the authorities that are trusted.
        self._http = httpx.AsyncClient(
            timeout=rules.timeout_s,
            trust_env=False,
            verify=httpx.create_ssl_context(),
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def check(self, url: str) -> None:
        """Raise Refused(BAD_REQUEST) if no message can be sent to *url*."""
        if not self._rules.secret:
            raise _bad(f"{HEADER} cannot be used here: the operator has set no secret to sign webhooks with.")
        try:
            await self._resolve(url)
        except AddressRefused as error:
            raise _bad(f"{HEADER} cannot be used: {error}") from error

    async def send(self, due: DueWebhook, payload: Mapping[str, Any]) -> float | None:
        """Make one attempt to tell of a job; otherwise as `deliver`."""
        view = due.view
        message = Message(
            id=f"msg_{view.id.removeprefix('req_')}",
            about=view.id,
            tenant=view.tenant,
            url=due.url,
            attempt=due.attempt,
            since_ms=view.finished_ms,
        )
        return await self.deliver(message, payload)

    async def deliver(self, message: Message, payload: Mapping[str, Any]) -> float | None:
        """Make one attempt; gives in how many seconds to make the next, None if there is none to make."""
        try:
            status = await self._post(message, json.dumps(payload).encode())
            reason = f"it answered {status}"
        except (AddressRefused, httpx.HTTPError, TimeoutError) as error:
            status, reason = 0, str(error) or type(error).__name__
        if 200 <= status < 300:
            self._on_end("delivered")
            return None
        pause_s = self._pause_s(message.attempt)
        ends_ms = message.since_ms + self._rules.retry_s * 1000
        if status == _GONE or self._now_ms() + pause_s * 1000 > ends_ms:
            self._on_end("given_up")
            log.warning("webhook_given_up", request_id=message.about, attempts=message.attempt, reason=reason)
            return None
        self._on_end("retried")
        return pause_s

    async def aclose(self) -> None:
        """Close what is open."""
        await self._http.aclose()

    def _pause_s(self, attempt: int) -> float:
        pause_s: float = min(PAUSE_S_MAX, self._rules.pause_s * 2 ** min(attempt - 1, DOUBLINGS_MAX))
        return pause_s * random.uniform(0.75, 1.25)  # noqa: S311  so that many do not come back at once

    async def _post(self, message: Message, body: bytes) -> int:
        url = httpx.URL(message.url)
        headers = {"host": url.netloc.decode("ascii"), **self._signed(message, body)}
        async with asyncio.timeout(self._rules.timeout_s):
            *others, last = await self._resolve(message.url)
            for address in others:
                with suppress(httpx.ConnectError):
                    return await self._post_to(address, url, headers, body)
            return await self._post_to(last, url, headers, body)

    async def _post_to(self, address: str, url: httpx.URL, headers: dict[str, str], body: bytes) -> int:
        """Post to *address* as to the host of *url*, whose name the certificate must bear; gives the status."""
        names = {"sni_hostname": url.raw_host.decode("ascii")}
        request = self._http.build_request(
            "POST", url.copy_with(host=address), content=body, headers=headers, extensions=names
        )
        answer = await self._http.send(request, stream=True)  # what it says is nothing to us
        await answer.aclose()
        return answer.status_code

    def _signed(self, message: Message, body: bytes) -> dict[str, str]:
        now_s = self._now_ms() // 1000
        secret = tenant_secret(self._rules.secret, message.tenant)
        return {
            "content-type": "application/json",
            "user-agent": "sluice",
            "webhook-id": message.id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": signature(secret, message.id, now_s, body),
        }

    async def _resolve(self, url: str) -> list[str]:
        """Give the addresses of *url*'s host; raise AddressRefused if there is none, or any that is not allowed."""
        host, port = self._place(url)
        try:
            async with asyncio.timeout(RESOLVE_S_MAX):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError):
            raise AddressRefused(f"its host {host!r} cannot be resolved.") from None
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        if not self._rules.allows_private and not all(map(is_public, addresses)):
            raise AddressRefused(f"its host {host!r} has an address that is not of the public Internet.")
        return addresses

    def _place(self, url: str) -> tuple[str, int]:
        try:
            parts, usable = urlsplit(url), httpx.URL(url)
            host, port = usable.raw_host.decode("ascii"), parts.port
        except (ValueError, httpx.InvalidURL):
            raise AddressRefused("it is no URL.") from None
        schemes = ("https", "http") if self._rules.allows_http else ("https",)
        if parts.scheme not in schemes or not host or len(url) > URL_CHARS_MAX:
            raise AddressRefused(f"it must be a URL of at most {URL_CHARS_MAX} characters with {' or '.join(schemes)}.")
        if parts.username is not None or parts.password is not None:
            raise AddressRefused("it must hold no user name and no password.")
        return host, port or {"https": 443, "http": 80}[parts.scheme]


def _bad(message: str) -> Refused:
    return Refused(Outcome.BAD_REQUEST, message, param=HEADER)
