"""
Simple ways to choose one of the workers that may have a request now; core/router.py has the default, `sluice`.

least_load     the least work outstanding, of up to 32
round_robin    one worker after the other
power_of_two   the one with fewer requests of two drawn at random (Mitzenmacher, 2001)
chwbl          consistent hashing by conversation with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016): the
               first choice that has at most 1.25 times the mean of requests
sglang         the rule of SGLang's router with its defaults: the longest match if it is 30 % of the prompt, else the
               worker with the fewest requests; that one anyway when they differ by more than 64 and by half
random         any

Each gives None if no worker has credit, and raises Refused(NO_WORKER) if none can serve at all.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from gateway.core.affinity import Chain, SentPrefixes
from gateway.core.routing import PoolViews, WorkerView, can_serve, choose, has_prefill_room, roomy

BOUND = 1.25  # of chwbl; the value that its authors and vLLM production-stack use
CHOICES_MAX = 16  # of chwbl: with loads bounded so, more than three are hardly ever asked
MATCH_MIN, BALANCE_ABS, BALANCE_REL = 0.3, 64, 1.5  # defaults of SGLang's router


class Expected(NamedTuple):
    """The tokens of a prompt that a worker is expected to hold, and those that it is worth as if it held them."""

    held: int
    worth: int
    source: str


@dataclass(slots=True, eq=False, kw_only=True)
class Ask:
    """
    A request that wants a worker: its *model*, the *work* and *prompt_tokens* it is expected to cost, its *chain*.

    Workers in *tried* have failed it. *since_s* is when it began to ask. *expected* is what its router found out of
    workers that may hold a part of its prompt, and *home* where gateways that know nothing would look for its next
    turn: for one wait they are looked up once.
    """

    model: str
    work: int
    prompt_tokens: int
    chain: Chain
    tried: list[str] = field(default_factory=list)
    since_s: float = 0.0
    expected: dict[str, Expected] | None = None
    home: str = ""


@dataclass(slots=True)
class Memory:
    """What one gateway remembers of one pool: what it sent where, and whose turn it is."""

    sent: SentPrefixes = field(default_factory=SentPrefixes)
    turn: int = -1


Policy = Callable[[Memory, Ask, PoolViews, random.Random, float], WorkerView | None]


def may_have(worker: WorkerView, ask: Ask) -> bool:
    """Tell whether *worker* can serve the request, has credit for it and has failed neither it nor others."""
    is_fit = can_serve(worker, ask.model) and worker.id not in ask.tried and not worker.is_suspect
    return is_fit and worker.free_seqs > 0 and has_prefill_room(worker, ask.prompt_tokens)


def _least_load(_: Memory, ask: Ask, pool: PoolViews, dice: random.Random, __: float) -> WorkerView | None:
    return choose(ask.model, ask.work, ask.prompt_tokens, pool, ask.tried, dice)


def _round_robin(memory: Memory, ask: Ask, pool: PoolViews, dice: random.Random, _: float) -> WorkerView | None:
    size = len(pool)
    if memory.turn < 0 and size:
        memory.turn = int(dice.random() * size)
    for step in range(size):
        place = (memory.turn + 1 + step) % size
        if may_have(pool[place], ask):
            memory.turn = place
            return pool[place]
    return _any(memory, ask, pool, dice, 0.0)


def _power_of_two(_: Memory, ask: Ask, pool: PoolViews, dice: random.Random, __: float) -> WorkerView | None:
    free = _roomy(ask, pool, dice)
    two = dice.sample(free, 2) if len(free) > 2 else free
    return min(two, key=lambda worker: (worker.requests, dice.random()), default=None)


def _chwbl(memory: Memory, ask: Ask, pool: PoolViews, dice: random.Random, now_s: float) -> WorkerView | None:
    bound = max(1.0, BOUND * (pool.requests + 1) / max(1, len(pool.ring)))
    first = None
    for name in pool.ring.choices(ask.chain.key, CHOICES_MAX) if ask.chain.hashes else ():
        worker = pool.get(name)
        if worker is None or not may_have(worker, ask):
            continue
        if worker.requests + 1 <= bound:
            return worker
        first = first or worker
    return first or _power_of_two(memory, ask, pool, dice, now_s)


def _sglang(memory: Memory, ask: Ask, pool: PoolViews, dice: random.Random, now_s: float) -> WorkerView | None:
    free = _roomy(ask, pool, dice)
    best = min(free, key=lambda worker: (worker.requests, dice.random()), default=None)
    if best is None:
        return None
    most, least = max(worker.requests for worker in free), best.requests
    if most - least <= BALANCE_ABS or most <= BALANCE_REL * least:
        best = _longest_match(memory, ask, pool, now_s) or best
        memory.sent.note(ask.chain, best.id, now_s)
    return best


def _longest_match(memory: Memory, ask: Ask, pool: PoolViews, now_s: float) -> WorkerView | None:
    for name, tokens in memory.sent.held(ask.chain, now_s).items():
        worker = pool.get(name)
        if worker and tokens > MATCH_MIN * ask.chain.length and may_have(worker, ask):
            return worker
    return None


def _any(_: Memory, ask: Ask, pool: PoolViews, dice: random.Random, __: float) -> WorkerView | None:
    return next(iter(_roomy(ask, pool, dice, most=1)), None)


def _roomy(ask: Ask, pool: PoolViews, dice: random.Random, most: int = 32) -> list[WorkerView]:
    return roomy(ask.model, ask.prompt_tokens, pool, ask.tried, dice, most)


POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "round_robin": _round_robin,
        "power_of_two": _power_of_two,
        "chwbl": _chwbl,
        "sglang": _sglang,
        "least_load": _least_load,
        "random": _any,
    }
)
