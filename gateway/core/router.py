"""
Which worker a request meets, and whether it waits for it: the least expected time to the first token, over few of them.

The *candidates* are the homes of its conversation, the workers that this gateway sent the longest beginning of its
prompt (core/affinity.py), and two drawn at random, without which a viral prefix would have three workers. Each is
scored by what has to be computed there first, the request's own part twice because it makes the next ones wait as well,
at the speed that the worker has shown; and by how full its batch and its KV cache are. The least wins, ties fall to
chance.

A request meets a worker only when that has credit (core/credit.py). In a full pool credit comes free at one worker at a
time, mostly not at the one that has the prompt's beginning; who always took it would find no prefix again. So a request
whose best worker has no credit now *leans* on it and waits for a bounded time, while those behind it go where nobody
before them waits for the room. What leans on a worker counts as outstanding there, so that not all wait for one.

Decides without awaiting; no clock and no I/O.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from typing import NamedTuple

from gateway.core.affinity import SentPrefixes, expected_work
from gateway.core.credit import BATCHED_TOKENS_GUESS, STEP_S_GUESS
from gateway.core.policies import POLICIES, Ask, Expected, Memory
from gateway.core.routing import PoolViews, WorkerView, can_serve, has_prefill_room, roomy

SLUICE = "sluice"
NAMES = (SLUICE, *POLICIES)
SENT, HOME = "sent", "home"  # why a worker is expected to have a beginning of a prompt
DRAWN = 2
HOMES_SEARCHED = 16  # choices looked through for a home of a model that few workers have: an adapter
LINE_LOOK = 16  # so many in line are looked at when something comes free: each takes some 20 µs
SEAT_S = 0.5  # until a full batch has a place again: answers of 10 s in a batch of 20
RATE_GUESS = BATCHED_TOKENS_GUESS / STEP_S_GUESS  # tokens/s, as long as no worker has shown any
RATE_GAIN = 0.02
SPEED_NOISE, SPEED_MAX = 1.5, 8.0  # of the usual speed: what differs less is taken for chance
SEQ_TOKENS = 16  # what a sequence in the batch weighs: without prompts to compute, batches fill evenly
KV_CACHE_HIGH, KV_CACHE_TOKENS = 0.9, 80_000  # above it preemptions are near, and each computes a prompt again


class Candidate(NamedTuple):
    """A worker as it was weighed; *held_tokens* of the prompt it was expected to have, *source* tells why."""

    worker: str
    source: str
    held_tokens: int
    outstanding_tokens: int
    requests: int
    expected_s: float
    has_room: bool


@dataclass(slots=True, eq=False)
class Choice:
    """
    What was decided: a *worker*, or to wait; then *leans_on* names the one that is waited for, "" for any.

    *prefill_tokens* are what it is expected to compute there, *held_tokens* what it has already.
    """

    worker: WorkerView | None
    prefill_tokens: int
    held_tokens: int = 0
    leans_on: str = ""
    candidates: list[Candidate] = field(default_factory=list)


@dataclass(slots=True)
class Leaning:
    """
    What waits for each worker, of those in line before the one that is looked at.

    They *can_be_passed* while each of them waits for a certain worker; one who waits for any is not passed over.
    """

    tokens: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    can_be_passed: bool = True

    def add(self, choice: Choice) -> None:
        """Take in one more that waits."""
        self.can_be_passed = bool(choice.leans_on)
        self.tokens[choice.leans_on] += choice.prefill_tokens
        self.requests[choice.leans_on] += 1


class Router:
    """
    One gateway's way of choosing workers of one pool, and what it remembers for that.

    *cost_weights* are factors on the expected time of workers by patterns of their names: what a worker's time costs
    beside that of others. *entries_max* bounds what is remembered; without it that is bounded by the pool's size.
    """

    def __init__(
        self,
        policy: str = SLUICE,
        dice: random.Random | None = None,
        *,
        cost_weights: Mapping[str, float] | None = None,
        entries_max: int | None = None,
    ) -> None:
        self._memory = Memory(SentPrefixes(entries_max) if entries_max else SentPrefixes())
        self._grows = entries_max is None
        self._dice = dice or random.Random()  # noqa: S311  no secret is drawn
        self._cost_weights = cost_weights or {}
        self._weights: dict[str, float] = {}
        self._rate = 0.0
        policy_of = POLICIES.get(policy)
        self._policy = partial(policy_of, self._memory) if policy_of else None

    def __repr__(self) -> str:
        return f"<Router [{len(self._memory.sent)} beginnings]>"

    def choose(
        self, ask: Ask, pool: PoolViews, now_s: float, leaning: Leaning | None = None, *, waits: bool = True
    ) -> Choice:
        """
        Decide for *ask*, with those *leaning* before it; raise Refused(NO_WORKER) if no worker can serve it.

        One that *waits* no longer takes any candidate with room.
        """
        if self._policy is None:
            return self._choose(ask, pool, now_s, leaning or _NOBODY, waits)
        worker = self._policy(ask, pool, self._dice, now_s)
        return Choice(worker, ask.prompt_tokens)

    def note(self, ask: Ask, worker: str, now_s: float) -> int | None:
        """
        Remember that *worker* is sent this prompt.

        Gives the beginning of its next turn if the other gateways should `hear` of it: they would look at its home.
        """
        if self._policy is not None:
            return None
        self._memory.sent.note(ask.chain, worker, now_s)
        return ask.chain.next_begins_with if ask.home and worker != ask.home else None

    def hear(self, beginning: int, worker: str, now_s: float) -> None:
        """Take what another gateway's `note` gave; a simple policy goes by what it sent itself."""
        if self._policy is None:
            self._memory.sent.hear(beginning, worker, now_s)

    def _choose(self, ask: Ask, pool: PoolViews, now_s: float, leaning: Leaning, waits: bool) -> Choice:
        prompt_tokens = ask.chain.length or ask.prompt_tokens
        drawn = roomy(ask.model, prompt_tokens, pool, ask.tried, self._dice, DRAWN)
        held = self._expected(ask, pool, now_s)
        views = {view.id: view for view in (*drawn, *self._known(ask, pool, held))}
        self._learn_rate(views.values())
        scored = [self._score(view, held, prompt_tokens, leaning, view in drawn) for view in views.values()]
        best = min(scored, key=self._order, default=None)
        if best and not best.has_room and not waits:
            best = min((one for one in scored if one.has_room), key=self._order, default=best)
        if best is None:
            return Choice(None, prompt_tokens)
        left = max(1, prompt_tokens - best.held_tokens)
        if not best.has_room:
            return Choice(None, left, best.held_tokens, best.worker, scored)
        return Choice(views[best.worker], left, best.held_tokens, "", scored)

    def _order(self, one: Candidate) -> tuple[float, float]:
        return one.expected_s, self._dice.random()

    def _expected(self, ask: Ask, pool: PoolViews, now_s: float) -> Mapping[str, Expected]:
        """Give the workers that may have a beginning of the prompt, and how many tokens of it each is expected to."""
        if ask.expected is None:
            if self._grows:
                self._memory.sent.resize(len(pool))
            sent = self._memory.sent.held(ask.chain, now_s)
            ask.expected = {name: Expected(tokens, tokens, SENT) for name, tokens in sent.items()}
            homes = self._homes(ask, pool)
            ask.home = homes[0] if homes else ""
            at_homes = ask.chain.at_homes(max(sent.values(), default=0))
            for home, (held, worth) in zip(homes, at_homes, strict=False):
                if worth > sent.get(home, -1):
                    ask.expected[home] = Expected(max(held, sent.get(home, 0)), worth, HOME)
        return ask.expected

    def _homes(self, ask: Ask, pool: PoolViews) -> list[str]:
        """Give the homes of a conversation; of an adapter that only few workers have, the first of those."""
        if not ask.chain.hashes:
            return []
        homes = pool.ring.homes(ask.chain.key)
        if any(_has(pool, home, ask.model) for home in homes):
            return homes
        return [name for name in pool.ring.homes(ask.chain.key, HOMES_SEARCHED) if _has(pool, name, ask.model)]

    def _known(self, ask: Ask, pool: PoolViews, held: Mapping[str, Expected]) -> list[WorkerView]:
        """Give the workers of *held* that can serve."""
        found = []
        for name in held:
            view = pool.get(name)
            if view and can_serve(view, ask.model) and not view.is_suspect and name not in ask.tried:
                found.append(view)
        return found

    def _score(
        self, view: WorkerView, held: Mapping[str, Expected], prompt_tokens: int, leaning: Leaning, is_drawn: bool
    ) -> Candidate:
        expected = held.get(view.id, _UNKNOWN)
        left, leaned = max(1, prompt_tokens - expected.held), leaning.tokens[view.id]
        seats = view.free_seqs - leaning.requests[view.id]
        has_seat = seats > 0 or (is_drawn and seats == 0 and not leaning.requests[view.id])
        tokens = expected_work(view.prefill_tokens + leaned, max(1, prompt_tokens - expected.worth))
        tokens += SEQ_TOKENS * view.requests
        tokens += KV_CACHE_TOKENS * max(0.0, view.kv_cache_usage - KV_CACHE_HIGH)
        expected_s = tokens / self._speed(view) + (0.0 if has_seat else SEAT_S * (1 - seats))
        return Candidate(
            view.id,
            expected.source,
            expected.held,
            view.prefill_tokens + leaned,
            view.requests,
            expected_s * self._weight(view.id),
            has_seat and has_prefill_room(view, left + leaned),
        )

    def _learn_rate(self, views: Iterable[WorkerView]) -> None:
        """Take what candidates have shown: the mean of the pool follows it slowly."""
        for view in views:
            if shown := view.prefill_tokens_per_s:
                self._rate += (shown - self._rate) * (RATE_GAIN if self._rate else 1.0)

    def _speed(self, view: WorkerView) -> float:
        """Give how fast a worker prefills, in tokens/s: as all do, unless it has shown clearly that it does not."""
        shown = view.prefill_tokens_per_s
        if not shown:
            return self._rate or RATE_GUESS
        ratio = shown / self._rate
        if 1 / SPEED_NOISE <= ratio <= SPEED_NOISE:
            return self._rate
        return self._rate * min(max(ratio, 1 / SPEED_MAX), SPEED_MAX)

    def _weight(self, worker: str) -> float:
        if not self._cost_weights:
            return 1.0
        weight = self._weights.get(worker)
        if weight is None:
            matching = (factor for pattern, factor in self._cost_weights.items() if fnmatchcase(worker, pattern))
            weight = self._weights[worker] = next(islice(matching, 1), 1.0)
        return weight


_NOBODY = Leaning()
_UNKNOWN = Expected(0, 0, "drawn")


def _has(pool: PoolViews, worker: str, model: str) -> bool:
    view = pool.get(worker)
    return view is not None and can_serve(view, model)
