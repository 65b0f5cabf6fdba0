"""/internal/v1/workers: where workers' agents beat, and strike themselves off."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from gateway.core.outcome import Outcome
from gateway.core.roster import Beat, WorkerState
from gateway.core.worker_tokens import pools_of
from gateway.errors import Refused
from gateway.ports.journal import EngineReading
from gateway.ports.roster import Roster
from gateway.serve.authn import bearer
from gateway.serve.http import Call, Reply

PREFIX = "/internal/v1/workers/"
# Beats come every second; for reconciliation one reading in ten is enough, and an idle engine needs none.
READING_INTERVAL_MS = 10_000
WORKERS_KNOWN_MAX = 10_000  # whose last reading is remembered; ids are new at each start of an agent


class _BeatBody(BaseModel):
    """
    The body of a beat; its fields are core/roster.py's Beat, bounded.

    What an agent of a newer version says besides is passed over, so that workers may be upgraded before gateways.
    """

    model_config = ConfigDict(extra="ignore")

    pool: str = Field(min_length=1, max_length=200)
    models: tuple[str, ...] = Field(min_length=1)
    url: str = Field(pattern=r"^(https?://[^/?#]+)?$")  # empty until the engine has a port
    state: WorkerState
    engine_key: str = Field("", pattern=r"^[!-~]*$", repr=False)
    running: int = Field(0, ge=0)
    waiting: int = Field(0, ge=0)
    kv_cache_usage: float = Field(0.0, ge=0.0, le=1.0)
    max_seqs: int = Field(0, ge=0)
    max_model_len: int = Field(0, ge=0)
    max_batched_tokens: int = Field(0, ge=0)
    engine_started_ms: int = Field(0, ge=0)
    prompt_tokens_total: int = Field(0, ge=0)
    completion_tokens_total: int = Field(0, ge=0)
    probe_prompt_tokens: int = Field(0, ge=0)
    probe_completion_tokens: int = Field(0, ge=0)
    preemptions_total: int = Field(0, ge=0)
    restarts: int = Field(0, ge=0)
    cause: str = Field("", max_length=2000)
    engine: str = Field("vllm", pattern=r"^[a-z0-9-]{1,20}$")
    ready_in_s: float | None = Field(None, ge=0, le=86_400)
    progress: str = Field("", max_length=200)


class Agents:
    """Takes beats into the roster and the engines' counters on to the Journal."""

    def __init__(
        self,
        roster: Roster,
        token: SecretStr | None,
        lease_s: float,
        on_reading: Callable[[EngineReading], None],
        now_ms: Callable[[], int],
        adapters_of: Callable[[str], Mapping[str, str] | None] = lambda _: None,
    ) -> None:
        self._roster = roster
        self._token = token
        self._adapters_of = adapters_of
        self._lease_s = lease_s
        self._on_reading = on_reading
        self._now_ms = now_ms
        self._passed_on: dict[str, EngineReading] = {}

    async def serve(self, call: Call, reply: Reply) -> None:
        """POST {worker}/beat takes a beat; DELETE {worker} strikes the worker off."""
        pool = self._authorised_for(call)
        worker, _, verb = call.path.removeprefix(PREFIX).partition("/")
        if call.method == "POST" and worker and verb == "beat":
            beat = Beat(worker=worker, **_read(await call.body()))
            self._check_pool(pool, beat.pool, worker)
            await self._take(beat)
            await reply.answer(200, json.dumps(self._answer(beat)).encode())
        elif call.method == "DELETE" and worker and not verb:
            self._check_pool(pool, pool, worker)
            await self._roster.forget(worker)
            await reply.answer(200, b'{"deleted": true}')
        else:
            raise Refused(Outcome.NOT_FOUND, f"There is no {call.method} {call.path} here.")

    def _authorised_for(self, call: Call) -> str:
        """Give the pool that the caller's token opens, "" for all."""
        token = self._token.get_secret_value() if self._token else ""
        if not token:
            raise Refused(Outcome.UNAUTHENTICATED, "No worker token is set on this gateway: set SLUICE_WORKER_TOKEN.")
        pool = pools_of(token, bearer(call.headers))
        if pool is None:
            raise Refused(Outcome.UNAUTHENTICATED, "The worker token is wrong.", code="invalid_worker_token")
        return pool

    def _check_pool(self, opened: str, pool: str, worker: str) -> None:
        """Let a pool's token speak for workers of that pool alone: neither join another nor take over one of its."""
        known = {beat.pool for beat in self._roster.beats() if beat.worker == worker}
        strange = {pool, *known} - {opened}
        if opened and strange:
            message = f"This worker token is for the pool {opened!r}, not for {strange.pop()!r}."
            raise Refused(Outcome.UNAUTHENTICATED, message, code="worker_token_of_other_pool")

    async def _take(self, beat: Beat) -> None:
        await self._roster.beat(beat)
        if beat.engine_started_ms:
            self._pass_on(_reading(beat, self._now_ms()), is_last=beat.state is WorkerState.DRAINING)

    def _answer(self, beat: Beat) -> dict[str, Any]:
        """
        Tell an agent how long its beat is good for, what gateways have on its engine, and what it is to do.

        Its LoRA adapters are told where its pool is declared; null leaves it with those it was started with.
        """
        standing, adapters = self._roster.standing(beat.worker), self._adapters_of(beat.pool)
        orders = {"state": standing.order.label, "adapters": None if adapters is None else dict(adapters)}
        return {"lease_s": self._lease_s, "in_flight": standing.in_flight, "orders": orders}

    def _pass_on(self, reading: EngineReading, *, is_last: bool) -> None:
        """Hand a reading to the Journal if it tells something new and the last one is old enough."""
        known = self._passed_on.get(reading.worker)
        if known and not _is_due(known, reading, is_last=is_last):
            return
        if len(self._passed_on) >= WORKERS_KNOWN_MAX:
            self._passed_on.clear()
        self._passed_on[reading.worker] = reading
        self._on_reading(reading)


def _reading(beat: Beat, now_ms: int) -> EngineReading:
    return EngineReading(
        worker=beat.worker,
        pool=beat.pool,
        started_ms=beat.engine_started_ms,
        read_ms=now_ms,
        prompt_tokens=beat.prompt_tokens_total,
        completion_tokens=beat.completion_tokens_total,
        probe_prompt_tokens=beat.probe_prompt_tokens,
        probe_completion_tokens=beat.probe_completion_tokens,
    )


def _is_due(known: EngineReading, reading: EngineReading, *, is_last: bool) -> bool:
    if replace(known, read_ms=reading.read_ms) == reading:
        return False
    is_another_engine = known.started_ms != reading.started_ms
    return is_last or is_another_engine or reading.read_ms - known.read_ms >= READING_INTERVAL_MS


def _read(body: bytes) -> dict[str, Any]:
    try:
        return dict(_BeatBody.model_validate_json(body))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise Refused(Outcome.BAD_REQUEST, f"{field}: {problem['msg']}.", param=field) from error
