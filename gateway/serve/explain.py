"""
Why a request went where it went: the last routes of this gateway, for operators. No text of any prompt is in them.

A route is kept as it was decided and put into words only when somebody asks.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.core.router import SLUICE, Candidate, Choice

KEPT_MAX = 1000  # some 2 kB each
PLACEMENTS_MAX = 8  # of one request: more than workers are ever tried


@dataclass(frozen=True, slots=True)
class Placed:
    """One meeting of a request and a worker: what was decided, and how long it had waited for it."""

    at_ms: int
    waited_s: float
    choice: Choice


@dataclass(slots=True)
class Route:
    """Where one request was placed, and what its engine said in the end of *prompt_tokens* and *cached_tokens*."""

    pool: str
    placed: list[Placed] = field(default_factory=list)
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


class Explained:
    """The routes of the last requests that *gateway* placed, by request id."""

    def __init__(self, gateway: str, policy: str, now_ms: Callable[[], int], kept_max: int = KEPT_MAX) -> None:
        self._gateway = gateway
        self._policy = policy
        self._now_ms = now_ms
        self._kept_max = kept_max
        self._routes: OrderedDict[str, Route] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Explained [{len(self._routes)} routes]>"

    def placed(self, name: str, pool: str, choice: Choice, waited_s: float) -> None:
        """Keep a request's placement; the oldest request is forgotten for it."""
        route = self._routes.get(name)
        if route is None:
            route = self._routes[name] = Route(pool)
            if len(self._routes) > self._kept_max:
                self._routes.popitem(last=False)
        if len(route.placed) < PLACEMENTS_MAX:
            route.placed.append(Placed(self._now_ms(), waited_s, choice))

    def end(self, name: str, prompt_tokens: int, cached_tokens: int) -> None:
        """Keep what the engine said of a request's prompt."""
        route = self._routes.get(name)
        if route is not None:
            route.prompt_tokens, route.cached_tokens = prompt_tokens, cached_tokens

    def find(self, name: str) -> dict[str, Any] | None:
        """Give the route of a request; None if this gateway did not place it or has forgotten it."""
        route = self._routes.get(name)
        if route is None:
            return None
        return {
            "object": "route",
            "id": name,
            "gateway": self._gateway,
            "pool": route.pool,
            "policy": self._policy,
            "placements": [self._to_json(placed) for placed in route.placed],
            "prompt_tokens": route.prompt_tokens,
            "cached_tokens": route.cached_tokens,
        }

    def _to_json(self, placed: Placed) -> dict[str, Any]:
        choice = placed.choice
        assert choice.worker is not None, "only who was placed is kept"
        return {
            "worker": choice.worker.id,
            "at_ms": placed.at_ms,
            "waited_ms": round(placed.waited_s * 1000),
            "why": self._why(choice, choice.worker.id, placed.waited_s),
            "held_tokens": choice.held_tokens,
            "prefill_tokens": choice.prefill_tokens,
            "candidates": [_candidate(one) for one in sorted(choice.candidates, key=lambda one: one.expected_s)],
        }

    def _why(self, choice: Choice, worker: str, waited_s: float) -> str:
        """Put into words why *worker* was taken."""
        if not choice.candidates:
            if self._policy == SLUICE:
                return f"No worker had credit for {waited_s:.1f} s: the least loaded one was taken."
            return f"The policy {self._policy} chose it among the workers with credit."
        chosen = next(one for one in choice.candidates if one.worker == worker)
        others = [one for one in choice.candidates if one.worker != worker]
        sooner = min(others, key=lambda one: one.expected_s, default=None)
        if sooner is None:
            return "It was the only candidate."
        if sooner.expected_s < chosen.expected_s:
            return (
                f"{sooner.worker} was expected to answer sooner ({sooner.expected_s:.3f} s against "
                f"{chosen.expected_s:.3f} s), but had no credit for {waited_s:.1f} s."
            )
        waited = f", after {waited_s:.1f} s of waiting for its credit" if waited_s >= 0.1 else ""
        return (
            f"It was expected to answer first, in {chosen.expected_s:.3f} s{waited}; "
            f"the next would have been {sooner.worker} in {sooner.expected_s:.3f} s."
        )


def _candidate(one: Candidate) -> dict[str, Any]:
    return {**one._asdict(), "expected_s": round(one.expected_s, 4)}
