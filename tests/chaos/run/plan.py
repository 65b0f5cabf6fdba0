"""
What a run does, decided by its seed alone: every request, and every fault by the number of requests asked before it.

How the two meet depends on the machine: a kill finds whatever is under way. A seed repeats the attack, not the bytes.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

WORDS = ("river", "gate", "water", "lock", "weir", "canal")
TOKENS_MAX = 300
REQUESTS_PER_FAULT = 3_000


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks: a tenant of the installation, and the class its requests have."""

    tenant: str
    service_class: str


ACCOUNTS = (Account("acme", "standard"), Account("globex", "interactive"), Account("night", "batch"))


@dataclass(frozen=True, slots=True)
class Leaving:
    """How a client hangs up: after so many bytes of the answer, or *after_s* without waiting for any."""

    after_bytes: int
    after_s: float
    is_abrupt: bool  # drops the connection; else it says that it goes, and reads what was sent to it nevertheless


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the run. *gateways* is the order in which its tries go round; *leaving* is of its first try."""

    number: int
    account: Account
    body: dict[str, Any]
    gateways: int
    leaving: Leaving | None
    comes_again: bool

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))


def ask(seed: int, number: int) -> Ask:
    """Give request *number* of the run of *seed*."""
    dice = random.Random(f"{seed}/{number}")
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": " ".join(dice.choices(WORDS, k=_words(dice)))}],
        "max_tokens": _tokens(dice),
        "ignore_eos": True,
    }
    if dice.random() < 0.03:
        body["n"] = dice.randint(2, 3)
    if dice.random() < 0.5:
        body |= _stream(dice)
    leaving = _leaving(dice) if dice.random() < 0.06 else None
    return Ask(number, dice.choice(ACCOUNTS), body, dice.randrange(6), leaving, dice.random() < 0.5)


def _words(dice: random.Random) -> int:
    """Most prompts are short; some are long enough for the second tier of the prices."""
    return dice.randint(200, 400) if dice.random() < 0.02 else dice.randint(1, 30)


def _tokens(dice: random.Random) -> int:
    return min(TOKENS_MAX, 1 + int(dice.expovariate(1 / 18)))


def _stream(dice: random.Random) -> dict[str, Any]:
    options = [None, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}]
    chosen = dice.choice(options)
    return {"stream": True} | ({"stream_options": chosen} if chosen else {})


def _leaving(dice: random.Random) -> Leaving:
    if dice.random() < 0.3:
        return Leaving(0, dice.uniform(0, 0.05), is_abrupt=dice.random() < 0.3)
    return Leaving(dice.randint(1, 8_000), 0.0, is_abrupt=dice.random() < 0.2)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something goes wrong once *at* requests were asked. *dice* decides what else there is to decide."""

    kind: str
    at: int
    dice: random.Random = field(repr=False)


ONCE_AT_LEAST = (
    "kill",
    "kill_at_start",
    "kill_all",
    "kill_without_database",
    "flush_redis",
    "kill_redis",
    "database_away",
    "disk_full",
    "ship_twice",
    "step_clock",
    "fail_engine",
)
AGAIN = ("kill",) * 6 + ("kill_at_start", "ship_twice", "step_clock", "step_clock", "flush_redis", "fail_engine")


def faults(seed: int, requests: int, requests_per_fault: int = REQUESTS_PER_FAULT) -> Iterator[Fault]:
    """Give the run's faults in order: each kind at least once, more the more requests there are."""
    dice = random.Random(f"{seed}/faults")
    more = max(0, requests // requests_per_fault - len(ONCE_AT_LEAST))
    kinds = [*ONCE_AT_LEAST, *dice.choices(AGAIN + ONCE_AT_LEAST, k=more)]
    dice.shuffle(kinds)
    for number, kind in enumerate(kinds):
        share = (number + dice.uniform(0.2, 0.8)) / len(kinds)
        yield Fault(kind, int(requests * (0.02 + 0.93 * share)), random.Random(f"{seed}/faults/{number}"))
