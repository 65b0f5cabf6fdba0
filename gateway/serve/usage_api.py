"""GET /v1/usage, and /v1/usage/{id}: what the caller's own key has used and what it cost, in all and by request."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from gateway.core.outcome import Outcome
from gateway.core.usage import MeterEvent
from gateway.core.zones import load_zone, parse_interval
from gateway.errors import InvalidInput, Refused, StoreUnavailable
from gateway.serve.http import Call, Reply
from gateway.serve.plane import Plane
from gateway.serve.receipts import describe

PATH = "/v1/usage"
PREFIX = PATH + "/"
PARAMETERS = ("from", "to", "zone", "group_by")
_Result = TypeVar("_Result")
AT_ONCE = 2  # reports under way: more would take the database's time from the ledger


class Report(Protocol):
    """Finance's report of one key over [from_ms, to_ms) by arrival; *unshipped* are events the Journal may not have."""

    def __call__(
        self, key: str, from_ms: int, to_ms: int, zone: ZoneInfo, group_by: str, unshipped: Sequence[MeterEvent]
    ) -> dict[str, Any]:
        """Blocks. Raises InvalidInput, StoreUnavailable."""


class UsageApi:
    """
    Answers for usage; *unshipped_of* gives the events of a key that are on their way to the Journal.

    It costs nothing and leaves no meter event, like the list of models.
    """

    def __init__(
        self,
        report: Report,
        find: Callable[[str], MeterEvent | None],
        unshipped_of: Callable[[str], Sequence[MeterEvent]],
        zone: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._report = report
        self._find = find
        self._unshipped_of = unshipped_of
        self._zone = zone
        self._now_ms = now_ms
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="usage")

    async def serve(self, call: Call, plane: Plane, reply: Reply) -> None:
        """Answer a caller about its own key. Raises Refused: 400 for a wrong question, 503 without the database."""
        caller = plane.authn.identify(call.headers)
        with _answering():
            report = await self._reported(caller.key, _parameters(call))
        body = {"object": "sluice.usage", **report, "tenant": caller.tenant}
        await reply.answer(200, json.dumps(body).encode())

    async def serve_receipt(self, call: Call, plane: Plane, reply: Reply) -> None:
        """Answer with the receipt of one request of the caller's own key, however it ended."""
        key, event_id = plane.authn.identify(call.headers).key, call.path.removeprefix(PREFIX)
        unshipped = {event.id: event for event in self._unshipped_of(key)}
        with _answering():
            event = unshipped.get(event_id) or await self._in_thread(self._find, event_id)
        if event is None or event.key != key:
            message = f"No request {event_id[:64]!r} of this key has ended. The id is an answer's x-request-id."
            raise Refused(Outcome.NOT_FOUND, message)
        receipt = describe(event, plane.directory.snapshot.prices.by_id.get(event.price))
        await reply.answer(200, json.dumps(receipt).encode())

    def close(self) -> None:
        """Let go of the threads; reports that wait are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _reported(self, key: str, asked: Mapping[str, str]) -> dict[str, Any]:
        zone = load_zone(asked.get("zone", self._zone))
        from_ms, to_ms = parse_interval(asked.get("from"), asked.get("to"), zone, self._now_ms())
        groups, unshipped = asked.get("group_by", ""), self._unshipped_of(key)
        return await self._in_thread(self._report, key, from_ms, to_ms, zone, groups, unshipped)

    async def _in_thread(self, work: Callable[..., _Result], *args: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise Refused(Outcome.BAD_REQUEST, str(error)) from error
    except StoreUnavailable as error:
        message = f"Usage cannot be read now: {error}. Nothing of it is lost. Retry soon."
        raise Refused(Outcome.USAGE_UNAVAILABLE, message, retry_after_s=5) from error


def _parameters(call: Call) -> Mapping[str, str]:
    query: bytes = call.scope.get("query_string", b"")
    asked = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    for name in asked:
        if name not in PARAMETERS:
            raise InvalidInput(f"{PATH} takes no {name[:64]!r}. It takes {', '.join(PARAMETERS)}.")
    return asked
