"""The roster that several gateways share: each takes the beats that reach it and learns the others' from Redis."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any

import structlog

from gateway.core.credit import CreditMode
from gateway.core.engine_load import EngineLoad
from gateway.core.health import DEFAULT_RULES, HealthRules, WorkerFault
from gateway.core.orders import Order, Standing
from gateway.core.roster import Beat, WorkerState
from gateway.core.routing import PoolViews, WorkerView
from gateway.core.worker_figures import WorkerFigures
from gateway.errors import StoreUnavailable
from gateway.ports.roster import Working
from gateway.stores.memory_roster import MemoryRoster
from gateway.stores.redis_client import RedisClient, Script, redis_answering
from gateway.stores.worker_orders import read_ordered

READ_AT_ONCE = 500  # beats taken in before other tasks get their turn: some 10 ms
STRUCK_OFF = ""
HURRY = 2  # news that others may be waiting for is told so many times as often
SENT_TOLD_MAX = 500  # prompts sent elsewhere than home, told at once: some 20 kB

_NAMES = ("beats", "leases", "versions", "version", "work", "told", "orders", "order_leases", "sent")
_KEYS = [f"sluice:{{roster}}:{name}" for name in _NAMES]
_SHARE = Script("roster")
_FIELDS = {field.name for field in fields(Beat)}

log = structlog.get_logger()


class RedisRoster:
    """
    A Roster in memory whose news travels through Redis: every *refresh_s*, and at once when a worker's state changes.

    News are beats, and what each gateway has outstanding on the workers on which that changed. Orders are few: each
    gateway tells all that it knows, every time, so that a Redis that lost its memory has them again at once. Which
    prompts were sent where is told once; who missed that looks for their next turns at home.

    With Redis away it goes on with what it last saw: a worker that only others hear of is listed until Redis is back,
    for its silence here says nothing.
    """

    def __init__(
        self,
        redis: RedisClient,
        clock: Callable[[], float] = time.monotonic,
        *,
        lease_s: float = 4.0,
        refresh_s: float = 0.1,
        store_timeout_s: float = 0.5,
        credit_mode: CreditMode = CreditMode.ADAPTIVE,
        health: HealthRules = DEFAULT_RULES,
    ) -> None:
        self.is_up = True
        self._redis = redis
        self._local = MemoryRoster(clock, lease_s=lease_s, credit_mode=credit_mode, health=health)
        self._owner = secrets.token_hex(8)
        self._lease_ms = int(lease_s * 1000)
        self._refresh_s = refresh_s
        self._store_timeout_s = store_timeout_s
        self._states: dict[str, WorkerState] = {}  # of the workers that beat here
        self._foreign: set[str] = set()  # the workers that only others hear of
        self._unsent: dict[str, str] = {}
        self._version = self._told_ms = 0
        self._sent: dict[int, str] = {}  # beginnings of prompts and who was sent them, to be told
        self._heard_id = "0-0"  # up to here that is known of the others
        self._task: asyncio.Task[None] | None = None

    async def beat(self, beat: Beat) -> None:
        await self._local.beat(beat)
        self._foreign.discard(beat.worker)
        self._unsent[beat.worker] = _write(beat)
        if self._states.get(beat.worker) is not beat.state:
            self._states[beat.worker] = beat.state
            self._local.has_news.set()

    async def forget(self, worker: str) -> None:
        await self._strike_off(worker)
        self._unsent[worker] = STRUCK_OFF
        self._local.has_news.set()

    def order(self, worker: str, order: Order) -> None:
        self._local.order(worker, order)

    def standing(self, worker: str) -> Standing:
        return self._local.standing(worker)

    def views(self, pool: str) -> PoolViews:
        return self._local.views(pool)

    def beats(self) -> Sequence[Beat]:
        return self._local.beats()

    def working(self, worker: str, work: int, prompt_tokens: int = 0) -> Working:
        return self._local.working(worker, work, prompt_tokens)

    def hear(self, worker: str, load: EngineLoad) -> None:
        self._local.hear(worker, load)

    def tell_sent(self, beginning: int, worker: str) -> None:
        if len(self._sent) < SENT_TOLD_MAX:
            self._sent[beginning] = worker

    def listen(self, listener: Callable[[str, int, str], None]) -> None:
        self._local.listen(listener)

    def watch(self, listener: Callable[[str], None]) -> None:
        self._local.watch(listener)

    def suspect(self, worker: str, fault: WorkerFault = WorkerFault.BROKEN) -> None:
        self._local.suspect(worker, fault)

    def trust(self, worker: str) -> None:
        self._local.trust(worker)

    def figures(self) -> Sequence[WorkerFigures]:
        return self._local.figures()

    def returning(self, within_s: float) -> Sequence[WorkerView]:
        return self._local.returning(within_s)

    def keep_ejected(self, worker: str, fault: WorkerFault) -> None:
        self._local.keep_ejected(worker, fault)

    async def start(self) -> None:
        await self._refresh()
        self._task = asyncio.create_task(self._share())

    async def aclose(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _share(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s * (1 - 1 / HURRY)):
                    await self._local.has_news.wait()
            try:
                await self._refresh()
            except Exception:  # what one gateway wrote must not end another's sharing
                log.exception("roster_failed")
                await asyncio.sleep(self._refresh_s)
            await asyncio.sleep(self._refresh_s / HURRY)  # what happens together is told together

    async def _refresh(self) -> None:
        """Tell the news and take in the others'; with Redis away, keep the news and what is known."""
        self._local.has_news.clear()
        telling, self._unsent = self._current(self._unsent), {}
        busy, self._local.busy = self._local.busy, set()
        sent, self._sent = self._sent, {}
        try:
            async with redis_answering(self._store_timeout_s):
                self._version, self._told_ms, told, orders, heard, *news = await _SHARE.run(
                    self._redis, _KEYS, self._news(telling, busy, sent)
                )
        except StoreUnavailable as error:
            self._unsent = telling | self._unsent
            self._local.busy |= busy
            for worker in self._foreign:
                self._local.extend(worker)
            self._note_change(is_up=False, reason=error.reason)
        else:
            self._note_change(is_up=True)
            await self._take_in(news)
            await self._take_in_told(told)
            await self._take_in_sent(heard)
            self._take_in_orders(orders)

    def _news(self, telling: dict[str, str], busy: set[str], sent: dict[int, str]) -> list[str | int]:
        """Give the script's arguments: beats, this gateway's own work on each *busy* worker, and what it sent where."""
        beats = [word for pair in telling.items() for word in pair]
        work = [word for worker in busy for word in (worker, "{} {} {}".format(*self._local.own(worker)))]
        orders = list(self._local.orders.words(self._local.now_s()))
        counts = len(beats), len(orders) // 3
        known = self._version, self._lease_ms, self._owner, self._told_ms, self._heard_id
        return [*known, _write_sent(sent), *counts, *orders, *beats, *work]

    def _current(self, unsent: dict[str, str]) -> dict[str, str]:
        """Leave out beats whose lease has ended while they waited for Redis; forget what was noted of such workers."""
        listed = {beat.worker for beat in self._local.beats()}
        self._foreign &= listed
        for worker in self._states.keys() - listed:
            del self._states[worker]
        return {worker: text for worker, text in unsent.items() if text == STRUCK_OFF or worker in listed}

    async def _take_in(self, news: list[Any]) -> None:
        for start in range(0, len(news), 3 * READ_AT_ONCE):
            await asyncio.sleep(0)
            chunk = news[start : start + 3 * READ_AT_ONCE]
            for worker, text, left_ms in zip(chunk[::3], chunk[1::3], chunk[2::3], strict=True):
                if worker in self._unsent:
                    continue  # it has just been heard here, which is newer
                if text == STRUCK_OFF:
                    await self._strike_off(worker)
                elif beat := _read(text):
                    self._local.note(beat, int(left_ms) / 1000)
                    self._foreign.add(worker)
                    self._states.pop(worker, None)

    async def _take_in_told(self, told: list[str]) -> None:
        """Take in what other gateways have outstanding: gateway, worker, "requests tokens credit", and so on."""
        for start in range(0, len(told), 3 * READ_AT_ONCE):
            await asyncio.sleep(0)
            chunk = told[start : start + 3 * READ_AT_ONCE]
            for gateway, worker, work in zip(chunk[::3], chunk[1::3], chunk[2::3], strict=True):
                requests, prefill_tokens, credit_seqs = map(int, work.split())
                self._local.tell(worker, gateway, requests, prefill_tokens, credit_seqs)

    async def _take_in_sent(self, heard: list[str]) -> None:
        """Take in what other gateways sent elsewhere than home: the id of the last word read, and their words."""
        self._heard_id, *texts = heard
        for text in texts:
            await asyncio.sleep(0)
            for beginning, worker in _read_sent(text):
                self._local.hear_sent(beginning, worker)

    def _take_in_orders(self, orders: list[Any]) -> None:
        """Take in all orders there are: worker, "number order", ms left, and so on."""
        for worker, words, left_ms in zip(orders[::3], orders[1::3], orders[2::3], strict=True):
            if ordered := read_ordered(words):
                self._local.hear_order(worker, ordered, int(left_ms) / 1000)

    async def _strike_off(self, worker: str) -> None:
        await self._local.forget(worker)
        self._foreign.discard(worker)
        self._states.pop(worker, None)

    def _note_change(self, *, is_up: bool, reason: str = "") -> None:
        if is_up != self.is_up:
            self.is_up = is_up
            if is_up:
                log.info("roster_shared_again")
            else:
                log.warning("roster_store_lost", reason=reason)

    def __repr__(self) -> str:
        away = "" if self.is_up else ", Redis is away"
        return f"<RedisRoster [{len(self._local)} workers, {len(self._foreign)} heard of by others only{away}]>"


def _write(beat: Beat) -> str:
    return json.dumps(asdict(beat) | {"state": beat.state.value}, separators=(",", ":"))


def _read(text: str) -> Beat | None:
    """Read a beat that another gateway wrote; of a newer version, take what is known here."""
    try:
        said = json.loads(text)
        known = {name: value for name, value in said.items() if name in _FIELDS}
        return Beat(**known | {"models": tuple(said["models"]), "state": WorkerState(said["state"])})
    except (KeyError, TypeError, ValueError) as error:
        log.warning("roster_beat_unreadable", reason=type(error).__name__)
        return None


def _write_sent(sent: dict[int, str]) -> str:
    return json.dumps(list(sent.items()), separators=(",", ":")) if sent else ""


def _read_sent(text: str) -> list[tuple[int, str]]:
    """Read which prompts another gateway sent to whom."""
    try:
        return [(int(beginning), str(worker)) for beginning, worker in json.loads(text)]
    except (TypeError, ValueError) as error:
        log.warning("roster_sent_unreadable", reason=type(error).__name__)
        return []
