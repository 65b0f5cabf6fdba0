"""
Who comes when, asking for what: requests as the planner sees them, and loads that are described rather than recorded.

Everything is drawn from a seed: the same description gives the same requests on every machine. Arrivals are a Poisson
stream of a rate that a spike multiplies. Lengths are log-normal about their means; SIGMA 0.6, at which the longest
tenth is over twice the median, is that of the answers in public traces of chat services. Patience is log-normal about
its median, too, with SIGMA 1: one client in six stays for less than a third of it, one in six for more than thrice.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.core.directory import ServiceClass
from gateway.errors import InvalidInput
from gateway.planner.quantities import Share, Spike

PATIENCE_SIGMA = 1.0
LENGTH_MAX = 8  # times the mean: what lies above is cut
REQUESTS_MAX = 2_000_000
_Phase = tuple[float, float, float]  # start, end, factor
SPIKE_PART = 0.25  # of the load's length: where a spike begins and how long it lasts, unless it says so


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    One request. *prompt_tokens* are those that no prefix cache has.

    With *blocks*, ids of the prompt's blocks (planner/caches.py), they are all, and what a worker's cache has of them
    is found out when it gets the request. *last_turn* is how many of them the prompt one turn ago had, as a chat tells
    gateways: 0 for a first turn, None where nothing tells it, as in traces.

    *patience_s* is how long its client waits for the first token before it hangs up, *wait_s_max* how long the gateway
    lets it wait for a slot.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    tenant: str = "all"
    service_class: ServiceClass = ServiceClass.STANDARD
    weight: int = 1
    patience_s: float = math.inf
    wait_s_max: float = math.inf
    blocks: tuple[int, ...] = ()
    last_turn: int | None = None

    @property
    def work(self) -> int:
        """What it costs, in the tokens of Ticket.work."""
        return self.prompt_tokens + 2 * self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of prompts and answers: means, and the spread of both on a logarithmic scale."""

    prompt_tokens: int = 1000
    output_tokens: int = 200
    sigma: float = 0.6

    def draw(self, dice: random.Random) -> tuple[int, int]:
        """Draw the tokens of a prompt and of its answer."""
        return _length(self.prompt_tokens, self.sigma, dice), _length(self.output_tokens, self.sigma, dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    A load that is described: *rps* requests per second for *length_s*, or exactly *users* requests in all.

    A spike multiplies the former; of the latter it draws a larger part into its time.
    """

    length_s: float
    rps: float = 0.0
    users: int | None = None
    lengths: Lengths = field(default_factory=Lengths)
    spike: Spike | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """
    Who sends the requests. Without *shares* there is one tenant.

    *patience_s* is the median; *wait_s_max* the longest wait that the gateway allows each class; *cached_share* is the
    part of every prompt that is found in prefix caches.
    """

    shares: Sequence[Share] = ()
    classes: Mapping[ServiceClass, float] = field(default_factory=lambda: {ServiceClass.STANDARD: 1.0})
    patience_s: float = math.inf
    wait_s_max: Mapping[ServiceClass, float] = field(default_factory=lambda: dict.fromkeys(ServiceClass, math.inf))
    cached_share: float = 0.0


def draw_load(load: Load, seed: int) -> list[Request]:
    """Draw the requests of *load*, in order of arrival, all of one tenant."""
    dice = random.Random(f"load {seed}")  # noqa: S311  a plan is to be repeated, not to be secret
    parts = phases(load.spike, load.length_s)
    rates = [load.rps * factor * (end_s - start_s) for start_s, end_s, factor in parts]
    check_count(sum(rates) if load.users is None else load.users)
    times = _poisson(parts, load.rps, dice) if load.users is None else _uniform(parts, load.users, dice)
    requests = []
    for at_s in times:
        prompt, output = load.lengths.draw(dice)
        requests.append(Request(at_s=at_s, prompt_tokens=prompt, output_tokens=output))
    return requests


def multiply(requests: Sequence[Request], spike: Spike, seed: int) -> list[Request]:
    """Let each request of a recorded load that falls into *spike* come so many times, spread over the spike."""
    dice = random.Random(f"spike {seed}")  # noqa: S311
    length_s = requests[-1].at_s if requests else 0.0
    [(start_s, end_s)] = [(start, end) for start, end, factor in phases(spike, length_s) if factor != 1] or [(0.0, 0.0)]
    inside = [one for one in requests if start_s <= one.at_s < end_s]
    check_count(len(requests) + len(inside) * (spike.factor - 1))
    kept = [one for one in requests if not start_s <= one.at_s < end_s]
    for one in inside:
        copies = int(spike.factor) + (dice.random() < spike.factor % 1)
        kept += [replace(one, at_s=dice.uniform(start_s, end_s)) for _ in range(copies)]
    return sorted(kept, key=lambda one: one.at_s)


def populate(requests: Sequence[Request], crowd: Crowd, seed: int) -> list[Request]:
    """Say of each request whose it is, of which class, and how patient its client is."""
    dice = random.Random(f"crowd {seed}")  # noqa: S311
    shares = crowd.shares or (Share("all", 1.0),)
    parts = [one.share for one in shares]
    return [_belonging(one, dice.choices(shares, parts)[0], crowd, dice) for one in requests]


def phases(spike: Spike | None, length_s: float) -> list[_Phase]:
    """Cut a load of *length_s* at the ends of its *spike*: (start, end, factor) of each part."""
    if spike is None:
        return [(0.0, length_s, 1.0)]
    start_s = spike_start_s(spike, length_s)
    if start_s >= length_s:
        raise InvalidInput(f"The spike begins at {start_s:g} s, but the load ends at {length_s:g} s.")
    end_s = min(length_s, start_s + (SPIKE_PART * length_s if spike.length_s is None else spike.length_s))
    parts = [(0.0, start_s, 1.0), (start_s, end_s, spike.factor), (end_s, length_s, 1.0)]
    return [part for part in parts if part[1] > part[0]]


def spike_start_s(spike: Spike, length_s: float) -> float:
    """Give when a *spike* of a load of *length_s* begins."""
    return SPIKE_PART * length_s if spike.start_s is None else spike.start_s


def check_count(requests: float) -> None:
    """Raise InvalidInput for more requests than fit into memory and an hour of planning."""
    if requests > REQUESTS_MAX:
        raise InvalidInput(
            f"That makes {requests:,.0f} requests; a plan takes {REQUESTS_MAX:,} at most. Plan a shorter time."
        )


def _belonging(request: Request, owner: Share, crowd: Crowd, dice: random.Random) -> Request:
    service_class = owner.service_class
    if service_class is None:
        [service_class] = dice.choices(list(crowd.classes), list(crowd.classes.values()))
    patience_s = math.inf
    if crowd.patience_s < math.inf:
        patience_s = dice.lognormvariate(math.log(crowd.patience_s), PATIENCE_SIGMA)
    return replace(
        request,
        prompt_tokens=max(1, round(request.prompt_tokens * (1 - crowd.cached_share))),  # the last one is in no cache
        tenant=owner.tenant,
        weight=owner.weight,
        service_class=service_class,
        patience_s=patience_s,
        wait_s_max=crowd.wait_s_max[service_class],
    )


def _poisson(parts: Sequence[_Phase], rps: float, dice: random.Random) -> Iterator[float]:
    for at_s, end_s, factor in parts:
        while rps * factor and (at_s := at_s + dice.expovariate(rps * factor)) < end_s:
            yield at_s


def _uniform(parts: Sequence[_Phase], users: int, dice: random.Random) -> Iterator[float]:
    """Draw so many arrivals, which is a Poisson stream given its count."""
    weights = [factor * (end_s - start_s) for start_s, end_s, factor in parts]
    drawn = dice.choices(parts, weights, k=users) if any(weights) else []
    return iter(sorted(dice.uniform(start_s, end_s) for start_s, end_s, _ in drawn))


def _length(mean: int, sigma: float, dice: random.Random) -> int:
    median = math.log(mean) - sigma**2 / 2  # so that the mean is *mean*
    return max(1, min(round(dice.lognormvariate(median, sigma)), LENGTH_MAX * mean))
