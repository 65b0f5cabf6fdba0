"""The simulated engine: routes, one stepping loop for all sequences, the journal. It speaks vLLM 0.32's HTTP."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workers.engines.sim_adapters import SimAdapters
from workers.engines.sim_answer import Answer, Crash, head_of
from workers.engines.sim_api import (
    Call,
    Limits,
    RequestRefused,
    read_chat,
    read_completion,
    read_detokenize,
    read_tokenize,
)
from workers.engines.sim_batch import Batch, Pace
from workers.engines.sim_faults import FaultPlan, Faults
from workers.engines.sim_http import Exchange, Header
from workers.engines.sim_journal import Journal, JournalEntry
from workers.engines.sim_metrics import render_metrics
from workers.engines.sim_tokens import TEXTS

_STALL_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """
    A simulated engine. *mean_tokens* is the mean length of an answer whose request sets no limit.

    A frame of a stream carries *stream_interval* tokens, but for the first and the last.
    """

    models: tuple[str, ...] = ("tiny",)
    max_model_len: int = 4096
    pace: Pace = field(default_factory=Pace)
    api_key: str = field(default="", repr=False)
    mean_tokens: int = 128
    ends_despite_max_tokens: bool = False
    faults: Faults = field(default_factory=Faults)
    seed: int = 0
    stream_interval: int = 1
    can_sleep: bool = False
    journal_max: int = 100_000
    journal_file: Path | None = None


class Engine:
    """Serves exchanges. Must be created inside the event loop that drives it."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.batch: Batch[Answer] = Batch(config.pace)
        self.journal = Journal(config.journal_max, config.journal_file)
        self._limits = Limits(config.models, config.max_model_len)
        adapters = SimAdapters(self._serve_adapters)
        self._loop = asyncio.get_running_loop()
        self._faults = FaultPlan(config.faults, config.seed, self._loop.time())
        self._started_s = time.time()
        self._key_digest = hashlib.sha256(f"Bearer {config.api_key}".encode()).digest()
        self._is_stepping = False
        self._routes: dict[tuple[str, str], Callable[[Exchange], None]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/v1/load_lora_adapter"): adapters.load,
            ("POST", "/v1/unload_lora_adapter"): adapters.unload,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("GET", "/version"): lambda exchange: exchange.reply_json(200, {"version": "0.32.0"}),
            ("GET", "/metrics"): self._metrics,
            ("GET", "/sim/journal"): self._journal,
            ("GET", "/sim/faults"): lambda exchange: exchange.reply_json(200, self._faults.faults.model_dump()),
            ("POST", "/sim/faults"): self._switch_faults,
        }
        if config.can_sleep:
            self._routes["POST", "/sleep"] = lambda exchange: exchange.reply_json(200, {"status": "sleeping"})
            self._routes["POST", "/wake_up"] = lambda exchange: exchange.reply_json(200, {"status": "awake"})

    def __repr__(self) -> str:
        return f"<Engine {self.config.models[0]} {self.batch!r}>"

    def serve(self, exchange: Exchange) -> None:
        """Answer *exchange*, now or as its tokens come."""
        request = exchange.request
        route = self._routes.get((request.method, request.path))
        if request.path.startswith("/v1") and not self._is_authorized(exchange):
            exchange.reply_json(401, {"error": "Unauthorized"})
        elif route is not None:
            self._answer(route, exchange)
        elif allowed := [method for method, path in self._routes if path == request.path]:
            exchange.reply_json(405, {"detail": "Method Not Allowed"}, [("allow", ", ".join(allowed))])
        else:
            exchange.reply_json(404, {"detail": "Not Found"})

    def _answer(self, route: Callable[[Exchange], None], exchange: Exchange) -> None:
        try:
            route(exchange)
        except RequestRefused as refusal:
            exchange.reply_json(refusal.status, {"error": refusal.error})

    def _is_authorized(self, exchange: Exchange) -> bool:
        if not self.config.api_key:
            return True
        given = exchange.request.headers.get("authorization", "")
        return secrets.compare_digest(hashlib.sha256(given.encode()).digest(), self._key_digest)

    # --- generation ---

    def _chat(self, exchange: Exchange) -> None:
        self._generate(exchange, read_chat)

    def _complete(self, exchange: Exchange) -> None:
        self._generate(exchange, read_completion)

    def _generate(self, exchange: Exchange, read: Callable[[bytes, Limits], Call]) -> None:
        if self._meets_fault(exchange):
            return
        _check_content_type(exchange)
        call = read(exchange.request.body, self._limits)
        head = head_of(call, self.config.models[0], _request_id(exchange) or secrets.token_hex(8))
        answer = Answer(exchange, call, head, self._draw_crash(), self._mean_tokens(call), self.config.stream_interval)
        if exchange.request.headers.get("endpoint-load-metrics-format") == "json":
            answer.load_header = self._load_header
        for sequence in answer.sequences:
            self.batch.add(sequence)
        answer.start(self._close)
        self._start_stepping()

    def _meets_fault(self, exchange: Exchange) -> bool:
        if self._faults.is_starting(self._loop.time()):
            exchange.reply(503)
        elif self._faults.hangs():
            exchange.on_leave = lambda: self._note(exchange, "hung")
        elif self._faults.fails():
            status = self._faults.faults.error_status
            error = {"message": "A scripted fault.", "type": "InternalServerError", "param": None, "code": status}
            exchange.reply_json(status, {"error": error})
            self._note(exchange, f"failed_{status}")
        else:
            return False
        return True

    def _draw_crash(self) -> Crash | None:
        after_tokens = self._faults.crash_after()
        if after_tokens is None:
            return None
        faults = self._faults.faults
        return Crash(after_tokens=after_tokens, exits=faults.crash_exits, how=faults.crash_how)

    def _mean_tokens(self, call: Call) -> int:
        may_end = call.may_end and (not call.has_max_tokens or self.config.ends_despite_max_tokens)
        return self.config.mean_tokens if may_end else 0

    def _close(self, answer: Answer) -> None:
        """Take note of an answer's end, and stop whatever of it is still running."""
        counted = sum(sequence.prompt_tokens for sequence in answer.sequences if sequence.generated)
        for sequence in answer.sequences:
            self.batch.abort(sequence)
        self._note(
            answer.exchange,
            answer.outcome,
            prompt_tokens=answer.prompt_tokens,
            counted_prompt_tokens=counted,
            cached_tokens=answer.cached_tokens,
            completion_tokens=answer.completion_tokens,
            written_tokens=answer.written_tokens,
            is_whole=answer.is_whole,
            choices=answer.call.choices,
        )

    def _note(self, exchange: Exchange, outcome: str, *, is_whole: bool = False, **tokens: int) -> None:
        identity, path = _request_id(exchange), exchange.request.path
        self.journal.append(JournalEntry(request=identity, path=path, outcome=outcome, is_whole=is_whole, **tokens))

    # --- the stepping loop ---

    def _start_stepping(self) -> None:
        if not self._is_stepping:
            self._is_stepping = True
            self._loop.call_soon(self._begin_step, self._loop.time())

    def _begin_step(self, now_s: float) -> None:
        duration_s = self.batch.begin_step()
        if duration_s is None:
            self._is_stepping = False
        else:
            self._loop.call_at(now_s + duration_s, self._end_step, now_s + duration_s)

    def _end_step(self, due_s: float) -> None:
        """Hand out a step's tokens. *due_s* keeps the pace exact: a step that came late shortens the next one."""
        now_s = self._loop.time()
        if self._faults.faults.is_stalled:
            self._loop.call_at(now_s + _STALL_POLL_S, self._end_step, now_s + _STALL_POLL_S)
            return
        for sequence in self.batch.end_step():
            sequence.owner.take(sequence)
        self._begin_step(max(due_s, now_s - self.config.pace.inter_token_s))

    # --- everything else ---

    def _tokenize(self, exchange: Exchange) -> None:
        ids = read_tokenize(exchange.request.body, self._limits)
        known = {"count": len(ids), "max_model_len": self.config.max_model_len}
        exchange.reply_json(200, {**known, "tokens": ids, "token_strs": None})

    def _detokenize(self, exchange: Exchange) -> None:
        ids = read_detokenize(exchange.request.body, self._limits)
        exchange.reply_json(200, {"prompt": "".join(TEXTS[token] for token in ids if token < len(TEXTS))})

    def _serve_adapters(self, names: tuple[str, ...]) -> None:
        self._limits = replace(self._limits, models=(*self.config.models, *names))

    def _models(self, exchange: Exchange) -> None:
        models = [_model_card(name, self.config) for name in self._limits.models]
        exchange.reply_json(200, {"object": "list", "data": models})

    def _health(self, exchange: Exchange) -> None:
        exchange.reply(503 if self._faults.is_starting(self._loop.time()) else 200)

    def _metrics(self, exchange: Exchange) -> None:
        page = render_metrics(self.batch, self.config.models[0], self._started_s)
        exchange.reply(200, page, "text/plain; version=1.0.0; charset=utf-8")

    def _load_header(self) -> list[Header]:
        waiting, usage = float(self.batch.left_waiting), self.batch.cache.usage
        metrics = f'{{"num_requests_waiting": {waiting!r}, "kv_cache_usage_perc": {usage!r}}}'
        return [("endpoint-load-metrics", f'JSON {{"named_metrics": {metrics}}}')]

    def _journal(self, exchange: Exchange) -> None:
        exchange.reply_json(200, {"entries": [asdict(entry) for entry in self.journal]})

    def _switch_faults(self, exchange: Exchange) -> None:
        try:
            changes = Faults.model_validate_json(exchange.request.body).model_dump(exclude_unset=True)
        except ValidationError as error:
            exchange.reply_json(400, {"error": str(error)})
            return
        self._faults.switch(changes, self._loop.time())
        exchange.reply_json(200, self._faults.faults.model_dump())


def _request_id(exchange: Exchange) -> str:
    return exchange.request.headers.get("x-request-id", "")


def _check_content_type(exchange: Exchange) -> None:
    kind = exchange.request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise RequestRefused(400, message, "Bad Request")


def _model_card(name: str, config: SimConfig) -> dict[str, Any]:
    now = int(time.time())
    allowed = ("create_engine", "sampling", "logprobs", "search_indices", "view", "fine_tuning")
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": now,
        **{f"allow_{right}": right in {"sampling", "logprobs", "view"} for right in allowed},
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": now,
        "owned_by": "vllm",
        "root": name,
        "parent": None,
        "max_model_len": config.max_model_len,
        "permission": [permission],
    }
