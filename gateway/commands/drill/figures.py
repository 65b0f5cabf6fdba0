"""
Every number of a drill's result, and what exactly it says.

Only the burst's clients count, those of the calm before it in `lost` and `starved` alone. Times run from the moment a
client sets out to connect.

- *served*: has its whole answer, up to `[DONE]`. *refused*: an error in OpenAI's form before anything of the answer, by
  code in `refusals`. *left*: hung up or lost patience by its own will. *lost*: ended in any other way, or has not ended
  when the drill does; `losses` has the reasons. served + refused + left + lost = users.
- *starved*: waited longer for an answer or a refusal than its class may wait, or waits still when the drill ends.
- *first_byte_s*: to the first byte of the HTTP response, over all clients that got one.
- *wait_s*: to the first token, over the served; by class, and by tenant.
- *eta_error_mean*: over the served requests the mean of |told wait - actual remaining wait| ÷ actual remaining wait.
  Each counts once: the first ETA it was told later than STEADY_S after the burst began (a rate over the last 10 s means
  nothing before) and more than REMAINING_S_MIN before its first token. *eta_bias_mean* is the same with its sign: above
  0, waits were told too long. `eta_by_class` has both for each class, `eta_after_arrivals` counts the first ETA told
  after the last arrival: what is wrong with it is not due to those who came later.
- *hangup_removed_ms*: from a client's closing until another gateway no longer knows the ticket as waiting; see
  hangups.py. *hangups_measured* is how many there were.
- *fairness_jain*: Jain's index, (Σx)² / (n · Σx²), over what tenants were served, in tokens of prompts and answers.
  Tenants of a drill have equal weights, so that x needs no divisor. Counted within a class (classes are not meant to be
  equal), over the requests whose answer began while every tenant of the class had another one waiting; the smallest
  index of the classes in which that were at least SHARE_REQUESTS_MIN requests per tenant. 1: equal; 1/n: all for one.
- *redis_ops_per_request*: commands that reached Redis from the burst's beginning to its end, whatever for, a script as
  one, divided by users. 0 without Redis.
- *gateway_memory_kib_per_waiting*: the largest growth of all gateways' resident memory since the burst began, divided
  by the most requests that waited at once (*waiting_max*). *gateway_cpu_ms_per_request*: CPU of all gateways per user.
- *client_lag_s_max*: how late the drill itself was in sending a client in. If it is large, the machine was too small.
  *drill_cpu_ms_per_request*: the CPU of the drill's own process, the clients', per user.

What could not be measured is null.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.commands.drill.client import Ending, Story
from gateway.commands.drill.scenario import Scenario
from gateway.commands.drill.watch import GatewayCosts
from gateway.core.directory import ServiceClass

STEADY_S = 10.0
REMAINING_S_MIN = 1.0
SHARE_REQUESTS_MIN = 10
_CLASSES = tuple(one.label for one in ServiceClass)  # most urgent first
_UNFINISHED = {Ending.LOST, Ending.WAITING, Ending.RUNNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a drill saw. Times are those of time.monotonic(); None is what nobody could see."""

    scenario: Scenario
    stories: Sequence[Story]
    began_s: float
    ended_s: float
    wait_limits_s: Mapping[str, float]
    waiting_max: int
    client_lag_s_max: float
    removal_ms: Sequence[float]
    gateways: int
    drill_cpu_s: float
    costs: GatewayCosts | None = None
    redis_calls: int | None = None


def figures(seen: Observed) -> dict[str, Any]:
    """Give the result as it is printed by `--format json`."""
    stories = [story for story in seen.stories if story.visit.is_burst]
    served = [story for story in stories if story.ending is Ending.SERVED]
    return {
        "users": seen.scenario.users,
        **_endings(stories, served),
        "lost": sum(story.ending in _UNFINISHED for story in seen.stories),
        "starved": sum(is_starved(story, seen) for story in seen.stories),
        "first_byte_s_p99": percentile((s.first_byte_s - s.sent_s for s in stories if s.first_byte_s is not None), 99),
        "wait_s": {name: _waits(group) for name, group in _by_class(served).items()},
        **_etas(served, seen.began_s, seen.scenario.over_s),
        "hangups_measured": len(seen.removal_ms),
        "hangup_removed_ms_p50": percentile(seen.removal_ms, 50, 1),
        "hangup_removed_ms_p99": percentile(seen.removal_ms, 99, 1),
        "fairness_jain": fairness(stories),
        "redis_ops_per_request": _per(seen.redis_calls, seen.scenario.users),
        **_costs(seen),
        "tokens_served": sum(story.prompt_tokens + story.completion_tokens for story in served),
        "duration_s": round(seen.ended_s - seen.began_s, 3),
        "served_per_s": round(len(served) / (seen.ended_s - seen.began_s), 2),
        "waiting_max": seen.waiting_max,
        "client_lag_s_max": round(seen.client_lag_s_max, 3),
        "drill_cpu_ms_per_request": _per(1000 * seen.drill_cpu_s, seen.scenario.users),
        "gateways": seen.gateways,
        "seed": seen.scenario.seed,
        "tenants": {f"tenant-{number + 1}": _tenant(group) for number, group in _by_tenant(served).items()},
    }


def is_starved(story: Story, seen: Observed) -> bool:
    """Tell whether *story* is one of waiting too long, or without an end."""
    until_s = story.begun_s or story.ended_s
    return until_s is None or until_s - story.sent_s > seen.wait_limits_s[story.visit.service_class]


def wait_s(story: Story) -> float:
    """Give the seconds from setting out to the first token of a served request."""
    assert story.begun_s is not None, "who is served has a first token"
    return story.begun_s - story.sent_s


def eta_told(story: Story, from_s: float) -> tuple[float, float] | None:
    """Give the first ETA that *story* was told after *from_s*, and the wait it had from then on; None without one."""
    for told_s, eta_s in story.places:
        if told_s >= from_s and story.begun_s is not None:
            remaining_s = story.begun_s - told_s
            return (eta_s, remaining_s) if remaining_s > REMAINING_S_MIN else None
    return None


def fairness(stories: Iterable[Story]) -> float | None:
    """Give the smallest of the classes' indexes; None where no class had its tenants backlogged together for long."""
    indexes = [_jain(shares) for group in _by_class(stories).values() if (shares := _shares(group))]
    return round(min(indexes), 4) if indexes else None


def percentile(values: Iterable[float], percent: float, digits: int = 3) -> float | None:
    """Give the smallest value that *percent* of all do not exceed (nearest rank); None if there are none."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)], digits) if ordered else None


def _endings(stories: Sequence[Story], served: Sequence[Story]) -> dict[str, Any]:
    refused = Counter(story.code for story in stories if story.ending is Ending.REFUSED)
    losses = Counter(story.code or story.ending.value for story in stories if story.ending in _UNFINISHED)
    left = sum(story.ending is Ending.LEFT for story in stories)
    return {
        "served": len(served),
        "refused": refused.total(),
        "left": left,
        "refusals": dict(refused),
        "losses": dict(losses),
    }


def _etas(served: Sequence[Story], began_s: float, over_s: float) -> dict[str, Any]:
    errors = _eta_errors(served, began_s + STEADY_S)
    by_class = {name: _eta_errors(group, began_s + STEADY_S) for name, group in _by_class(served).items()}
    return {
        "etas_compared": len(errors),
        **_error_means(errors),
        "eta_error_p95": percentile(map(abs, errors), 95),
        "eta_by_class": {name: _error_means(errors) for name, errors in by_class.items()},
        "eta_after_arrivals": _error_means(_eta_errors(served, began_s + max(STEADY_S, over_s))),
    }


def _eta_errors(served: Iterable[Story], from_s: float) -> list[float]:
    told = [eta for story in served if (eta := eta_told(story, from_s))]
    return [(eta_s - actual_s) / actual_s for eta_s, actual_s in told]


def _error_means(errors: Sequence[float]) -> dict[str, float | None]:
    return {"eta_error_mean": _mean([abs(error) for error in errors]), "eta_bias_mean": _mean(errors)}


def _costs(seen: Observed) -> dict[str, Any]:
    if seen.costs is None:
        return {"gateway_memory_kib_per_waiting": None, "gateway_cpu_ms_per_request": None}
    grown_kib = (seen.costs.rss_max - seen.costs.rss_before) / 1024
    return {
        "gateway_memory_kib_per_waiting": _per(grown_kib, seen.waiting_max),
        "gateway_cpu_ms_per_request": _per(1000 * seen.costs.cpu_s, seen.scenario.users),
    }


def _shares(stories: Iterable[Story]) -> list[int]:
    """Add up the tokens of each tenant while all were backlogged; empty if that was too short to say anything."""
    steps = []
    for story in stories:
        steps.append((story.sent_s, 1, story))
        if (out_s := story.begun_s or story.ended_s) is not None:
            steps.append((out_s, -1, story))
    tenants = {story.visit.tenant for _, _, story in steps}
    backlog: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    requests = 0
    for _, step, story in sorted(steps, key=lambda one: one[:2]):
        backlog[story.visit.tenant] += step
        if step < 0 and story.begun_s is not None and all(backlog[tenant] > 0 for tenant in tenants):
            tokens[story.visit.tenant] += story.prompt_tokens + story.completion_tokens
            requests += 1
    is_enough = len(tenants) > 1 and requests >= SHARE_REQUESTS_MIN * len(tenants)
    return [tokens[tenant] for tenant in tenants] if is_enough else []


def _jain(shares: Sequence[int]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def _waits(stories: Iterable[Story]) -> dict[str, float | None]:
    waits = [wait_s(story) for story in stories]
    return {f"p{percent}": percentile(waits, percent) for percent in (50, 95, 99)}


def _tenant(stories: Sequence[Story]) -> dict[str, Any]:
    tokens = sum(story.prompt_tokens + story.completion_tokens for story in stories)
    return {"served": len(stories), "tokens": tokens, "wait_s": _waits(stories)}


def _by_class(stories: Iterable[Story]) -> dict[str, list[Story]]:
    groups: defaultdict[str, list[Story]] = defaultdict(list)
    for story in stories:
        groups[story.visit.service_class].append(story)
    return {name: groups[name] for name in _CLASSES if name in groups}


def _by_tenant(stories: Iterable[Story]) -> dict[int, list[Story]]:
    groups: defaultdict[int, list[Story]] = defaultdict(list)
    for story in sorted(stories, key=lambda story: story.visit.tenant):
        groups[story.visit.tenant].append(story)
    return dict(groups)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _per(total: float | None, count: int) -> float | None:
    return None if total is None or not count else round(total / count, 3)
