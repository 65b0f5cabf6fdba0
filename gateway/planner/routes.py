"""
Which worker each of several gateways sends a request to, by any of several policies, in virtual time.

The policies are the gateway's own (core/router.py, core/policies.py), and so is what they go by: a gateway knows
exactly what it has outstanding itself; of the others it knows what they told last, up to REFRESH_S ago. Beside them

oracle         sluice's score over all workers that have a place, with exact knowledge of caches and work outstanding
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from gateway.core.affinity import expected_work
from gateway.core.credit import UNLIMITED
from gateway.core.policies import Ask
from gateway.core.roster import WorkerState
from gateway.core.router import LINE_LOOK, NAMES, SLUICE, Choice, Leaning, Router
from gateway.core.routing import PoolViews, WorkerView
from gateway.planner.caches import chain_of
from gateway.planner.fleet import Worker
from gateway.planner.load import Request

REFRESH_S = 0.1  # gateways tell one another so often: settings.roster.refresh_s
TREE_ENTRIES_MAX = 10**6  # of sglang
ORACLE = "oracle"
POLICIES = (*NAMES, ORACLE)
_POOL = "planned"


class _Oracle:
    """Knows every engine and its cache."""

    def __init__(self, workers: Mapping[str, Worker], dice: random.Random) -> None:
        self._workers = workers
        self._dice = dice

    def choose(self, ask: Ask, pool: PoolViews, _: float, __: Leaning | None = None, **___: bool) -> Choice:
        """Decide with exact knowledge."""

        def score(view: WorkerView) -> tuple[float, float]:
            worker = self._workers[view.id]
            uncached = max(1, ask.prompt_tokens - worker.cache.held_tokens(ask.chain.hashes))
            return expected_work(worker.engine.prefill_left, uncached), self._dice.random()

        free = [view for view in pool if self._workers[view.id].in_flight < view.credit_seqs]
        return Choice(min(free, key=score, default=None), ask.prompt_tokens)

    def note(self, ask: Ask, worker: str, now_s: float) -> None:
        """It need not remember."""

    def hear(self, beginning: int, worker: str, now_s: float) -> None:
        """It knows."""


class View:
    """What one gateway knows of the workers, and who waits there for one, by ticket."""

    def __init__(self, router: Router | _Oracle, wait_s_max: float) -> None:
        self.router = router
        self._wait_s_max = wait_s_max
        self.pool = PoolViews()
        self.line: dict[str, Ask] = {}
        self.has_news = False
        self.requests: Counter[str] = Counter()
        self.prefill_tokens: Counter[str] = Counter()
        self.untold: dict[int, str] = {}  # what the others are to hear of, and would look for elsewhere

    def see(self, worker: str, seqs: int, prefill_tokens: int) -> None:
        """Take in a worker that is new, with its credit."""
        view = WorkerView(
            id=worker,
            pool=_POOL,
            models=frozenset({_POOL}),
            url="",
            state=WorkerState.READY,
            max_seqs=seqs,
            credit_seqs=seqs,
            credit_prefill_tokens=prefill_tokens,
        )
        self.pool.put(view)
        self.has_news = True

    def sent(self, worker: Worker, request: Request, prefill_tokens: int) -> None:
        """Count a request that is sent to *worker*, and the part of its prompt that is to be computed there."""
        self._count(str(worker.number), 1, prefill_tokens, request.work)

    def prefilled(self, worker: Worker, prefill_tokens: int) -> None:
        """Count the prompt of a request off: its first token has come, or its client has gone."""
        self._count(str(worker.number), 0, -prefill_tokens, 0)
        self.has_news = True

    def ended(self, worker: Worker, request: Request) -> None:
        """Count a request off."""
        self._count(str(worker.number), -1, 0, -request.work)
        self.has_news = True

    def hear(self, worker: str, requests: int, prefill_tokens: int) -> None:
        """Take what the other gateways have on a worker."""
        view = self.pool.get(worker)
        known = prefill_tokens + self.prefill_tokens[worker]
        if view and (view.told_in_flight, view.prefill_tokens) != (requests, known):
            self.pool.put(replace(view, told_in_flight=requests, others_in_flight=requests, prefill_tokens=known))
            self.has_news = True

    def decide(self, now_s: float) -> Iterator[tuple[str, Choice]]:
        """Give those in line that are sent now; who asks counts each before the next is asked for."""
        self.has_news = False
        leaning = Leaning()
        for ticket, ask in list(islice(self.line.items(), LINE_LOOK)):
            waits = now_s - ask.since_s < self._wait_s_max
            choice = self.router.choose(ask, self.pool, now_s, leaning, waits=waits)
            if choice.worker:
                del self.line[ticket]
                beginning = self.router.note(ask, choice.worker.id, now_s)
                if beginning is not None:
                    self.untold[beginning] = choice.worker.id
                yield ticket, choice
                continue
            leaning.add(choice)
            if not leaning.can_be_passed:
                return

    def _count(self, worker: str, requests: int, prefill_tokens: int, work: int) -> None:
        self.requests[worker] += requests
        self.prefill_tokens[worker] += prefill_tokens
        view = self.pool.get(worker)
        if view:
            self.pool.put(
                replace(
                    view,
                    in_flight=view.in_flight + requests,
                    prefill_tokens=view.prefill_tokens + prefill_tokens,
                    outstanding_tokens=view.outstanding_tokens + work,
                )
            )


class Routes:
    """The gateways and their policy. A request comes through any of them."""

    def __init__(
        self, policy: str, gateways: int, dice: random.Random, *, prefill_tokens_max: int, wait_s_max: float
    ) -> None:
        self._workers: dict[str, Worker] = {}
        self._views = [View(_router(policy, self._workers, dice), wait_s_max) for _ in range(gateways)]
        self._prefill_tokens_max = prefill_tokens_max if policy == SLUICE else UNLIMITED
        self._dice = dice
        self._told_s = 0.0

    def see(self, workers: Iterable[Worker], seqs: int) -> None:
        """Take in who is ready now, each of which takes *seqs* requests."""
        ready = {str(worker.number): worker for worker in workers}
        for worker in (name for name in ready if name not in self._workers):  # in order: a seed replays exactly
            for view in self._views:
                view.see(worker, seqs, self._prefill_tokens_max)
        for worker in (name for name in self._workers if name not in ready):
            for view in self._views:
                view.pool.drop(worker)
        self._workers.update(ready)

    def enter(self, ticket: str, request: Request, now_s: float) -> View:
        """Let a request that has its slot wait at one of the gateways, which is given."""
        view = self._dice.choice(self._views)
        chain = chain_of(request.blocks, request.last_turn)
        view.line[ticket] = Ask(
            model=_POOL, work=request.work, prompt_tokens=request.prompt_tokens, chain=chain, since_s=now_s
        )
        view.has_news = True
        return view

    def decide(self, now_s: float) -> Iterator[tuple[str, Worker, int]]:
        """Give the tickets that are sent now, where to, and the prompt tokens that are expected to be computed."""
        if now_s - self._told_s >= REFRESH_S:
            self._tell(now_s)
        for view in self._views:
            if view.line and view.has_news:
                for ticket, choice in view.decide(now_s):
                    assert choice.worker, "only who is sent is given"
                    yield ticket, self._workers[choice.worker.id], choice.prefill_tokens

    def _tell(self, now_s: float) -> None:
        self._told_s = now_s
        requests = sum((view.requests for view in self._views), Counter[str]())
        tokens = sum((view.prefill_tokens for view in self._views), Counter[str]())
        for view in self._views:
            view.has_news = True  # and who has waited long enough waits no more
            for worker in self._workers:
                told = tokens[worker] - view.prefill_tokens[worker]
                view.hear(worker, requests[worker] - view.requests[worker], told)
        for teller in self._views:
            untold, teller.untold = teller.untold, {}
            for view in (view for view in self._views if view is not teller):
                for beginning, worker in untold.items():
                    view.router.hear(beginning, worker, now_s)


def _router(policy: str, workers: Mapping[str, Worker], dice: random.Random) -> Router | _Oracle:
    if policy == ORACLE:
        return _Oracle(workers, dice)
    return Router(policy, dice, entries_max=None if policy == SLUICE else TREE_ENTRIES_MAX)
