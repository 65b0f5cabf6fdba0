"""
Which worker each of several gateways sends a request to, by any of several policies, in virtual time.

A gateway knows exactly what it has outstanding itself; of the others it knows what they told last, up to REFRESH_S ago.

sluice         the least expected work before the first token, among the workers that may hold the prompt's beginning
               (core/affinity.py) and two drawn at random
round_robin    one worker after the other
power_of_two   the one with fewer requests of two drawn at random (Mitzenmacher, 2001)
chwbl          consistent hashing by conversation with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016): the
               first choice that has at most 1.25 times the mean of requests
sglang         the rule of SGLang's router with its defaults: the longest match if it is 30 % of the prompt, else the
               worker with the fewest requests; that one anyway when they differ by more than 64 and by half
oracle         sluice's score over all workers, with exact knowledge of caches and of work outstanding
random         any
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from gateway.core.affinity import Affinity, SentPrefixes, expected_work, mix
from gateway.planner.caches import chain_of
from gateway.planner.fleet import Worker
from gateway.planner.load import Request

REFRESH_S = 0.2  # gateways tell one another so often: settings.roster.refresh_s
DRAWN = 2  # workers drawn at random beside those that may hold a prefix: without them a viral prefix has three workers
BOUND = 1.25  # of chwbl; the value that its authors and vLLM production-stack use
MATCH_MIN, BALANCE_ABS, BALANCE_REL = 0.3, 64, 1.5  # defaults of SGLang's router
TREE_ENTRIES_MAX = 10**6


class View:
    """What one gateway knows of the workers, and remembers for its policy."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.prefill_tokens: Counter[int] = Counter()
        self.told_requests: Mapping[int, int] = {}
        self.told_prefill_tokens: Mapping[int, int] = {}
        self.affinity = Affinity()
        self.tree = SentPrefixes(TREE_ENTRIES_MAX)
        self.turn = 0
        self.now_s = 0.0
        self._known: set[int] = set()

    def see(self, workers: Sequence[Worker]) -> None:
        """Take in workers that are new."""
        for worker in workers:
            if worker.number not in self._known:
                self._known.add(worker.number)
                self.affinity.put(str(worker.number))

    def sent(self, worker: Worker, request: Request) -> None:
        """Count a request that is sent to *worker*, its whole prompt: what a cache saves of it is only hoped for."""
        self.requests[worker.number] += 1
        self.prefill_tokens[worker.number] += request.prompt_tokens

    def prefilled(self, worker: Worker, request: Request) -> None:
        """Count the prompt of a request off: its first token has come, or its client has gone."""
        self.prefill_tokens[worker.number] -= request.prompt_tokens

    def ended(self, worker: Worker) -> None:
        """Count a request off."""
        self.requests[worker.number] -= 1

    def load(self, worker: Worker) -> int:
        """How many requests are on *worker*."""
        return self.requests[worker.number] + self.told_requests.get(worker.number, 0)

    def prefill(self, worker: Worker) -> int:
        """How many prompt tokens were sent to *worker* of which no first token has come."""
        return self.prefill_tokens[worker.number] + self.told_prefill_tokens.get(worker.number, 0)


Policy = Callable[[View, Request, Sequence[Worker], random.Random], Worker]


class Routes:
    """The gateways and their policy. A request comes through any of them."""

    def __init__(self, policy: str, gateways: int, dice: random.Random) -> None:
        self._policy = POLICIES[policy]
        self._views = [View() for _ in range(gateways)]
        self._dice = dice
        self._told_s = 0.0

    def choose(self, request: Request, workers: Sequence[Worker], now_s: float) -> tuple[Worker, View]:
        """Give the worker for *request*, and the view of the gateway that sends it there."""
        if now_s - self._told_s >= REFRESH_S:
            self._tell(now_s)
        view = self._dice.choice(self._views)
        view.now_s = now_s
        return self._policy(view, request, workers, self._dice), view

    def _tell(self, now_s: float) -> None:
        self._told_s = now_s
        requests = sum((view.requests for view in self._views), Counter[int]())
        tokens = sum((view.prefill_tokens for view in self._views), Counter[int]())
        for view in self._views:
            view.told_requests = {number: count - view.requests[number] for number, count in requests.items()}
            view.told_prefill_tokens = {number: n - view.prefill_tokens[number] for number, n in tokens.items()}


def _sluice(view: View, request: Request, workers: Sequence[Worker], dice: random.Random) -> Worker:
    by_id = {str(worker.number): worker for worker in workers}
    view.see(workers)
    held: dict[str, float] = {}
    if request.blocks:
        chain = chain_of(request.blocks)
        held = view.affinity.candidates(chain, request.prompt_tokens, view.now_s)
    drawn = dice.sample(sorted(by_id), min(DRAWN, len(by_id)))
    known = [by_id[worker] for worker in dict.fromkeys((*held, *drawn)) if worker in by_id]

    def score(worker: Worker) -> tuple[float, float]:
        uncached = max(1.0, request.prompt_tokens - held.get(str(worker.number), 0.0))
        return expected_work(view.prefill(worker), uncached), dice.random()

    best = min(known, key=score)
    if request.blocks:
        view.affinity.note(chain, str(best.number), view.now_s)
    return best


def _round_robin(view: View, _: Request, workers: Sequence[Worker], dice: random.Random) -> Worker:
    view.turn = view.turn + 1 if view.turn else dice.randrange(len(workers)) + 1
    return workers[view.turn % len(workers)]


def _power_of_two(view: View, _: Request, workers: Sequence[Worker], dice: random.Random) -> Worker:
    return min(dice.sample(workers, min(2, len(workers))), key=view.load)


def _chwbl(view: View, request: Request, workers: Sequence[Worker], dice: random.Random) -> Worker:
    if not request.blocks:
        return _power_of_two(view, request, workers, dice)
    key = chain_of(request.blocks).key
    bound = max(1.0, BOUND * (sum(map(view.load, workers)) + 1) / len(workers))
    order = sorted(workers, key=lambda worker: mix(key, worker.number))
    return next((worker for worker in order if view.load(worker) + 1 <= bound), order[0])


def _sglang(view: View, request: Request, workers: Sequence[Worker], dice: random.Random) -> Worker:
    loads = [view.load(worker) for worker in workers]
    best = min(workers, key=lambda worker: (view.load(worker), dice.random()))
    if max(loads) - min(loads) > BALANCE_ABS and max(loads) > BALANCE_REL * min(loads):
        return best
    chain = chain_of(request.blocks)
    held = view.tree.held(chain, view.now_s)
    nearest = max(workers, key=lambda worker: held.get(str(worker.number), 0))
    if held.get(str(nearest.number), 0) > MATCH_MIN * request.prompt_tokens:
        best = nearest
    view.tree.note(chain, str(best.number), view.now_s)
    return best


def _oracle(_: View, request: Request, workers: Sequence[Worker], dice: random.Random) -> Worker:
    def score(worker: Worker) -> tuple[float, float]:
        uncached = max(1, request.prompt_tokens - worker.cache.held_tokens(request.blocks))
        return expected_work(worker.engine.prefill_left, uncached), dice.random()

    return min(workers, key=score)


def _random(_: View, __: Request, workers: Sequence[Worker], dice: random.Random) -> Worker:
    return dice.choice(workers)


POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "sluice": _sluice,
        "round_robin": _round_robin,
        "power_of_two": _power_of_two,
        "chwbl": _chwbl,
        "sglang": _sglang,
        "oracle": _oracle,
        "random": _random,
    }
)
