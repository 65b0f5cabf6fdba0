"""
How many workers a pool needs: from the work that comes, the work that waits, and what one worker does; never from CPU.

    desired = ceil((λ × 1.2 + Q ÷ T_drain) ÷ μ)

λ is the work that arrives, in predicted tokens (Ticket.work) per second; Q the work that waits; μ what one busy worker
does per second. If it is known how long a worker takes to start, Q is foreseen for the moment at which a worker that
is asked for now would be ready: what arrives until then waits too, what ready and starting workers do is taken off.

Up at once, as soon as less than a tenth is to spare. Down only to the most that arrivals asked for within the last
`down_s`, and those who were asked for to drain a line stay until it has been empty for SETTLE_S: the two waves a pool
must not follow down at once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp

HEADROOM = 1.2  # of arrivals: at five sixths of what a pool can do its line stays short
# Those that run are enough while they leave so much: else chance asks for one worker more every minute, and keeps it.
HEADROOM_LEAST = 1.1
RATE_S = 10.0  # time constant of a rate
# Of arrivals: at 10 requests a second of mixed lengths it is off by 5 % (sqrt((1 + c²) ÷ 2rτ) with c² = 0.4), and the
# highest of a minute by little more. A shorter one costs workers: 10 s make 23 changes of a pool where 30 s make 11.
CALM_S = 30.0
# A step is told sooner by the last three seconds without the busiest of them, which may be a burst of an instant. That
# counts when it is twice the calm rate: chance alone hardly ever does that.
STEP_S, STEP_SHARE = 3, 2.0
SETTLE_S = 15.0  # an empty line may fill again: one sync period of Kubernetes' autoscaler
EMPTY_S = 1.0  # less than a second's work of the ready workers is no line
BUSY_SHARE = 0.8  # of its places in use: what a worker does then is what it can do
SPARSE_SHARE = 1 / 3  # of what would follow in proportion: a full batch does less per sequence than a sparse one
LEARN_S = 30.0  # time constant of what a worker does
STEADY_S = 2 * RATE_S  # the same workers for so long: then the rate of what they did is theirs
# Before a worker of a pool was seen at work: 20 tokens/s of an answer, counted twice as in Ticket.work, for each place
# in its batch; and a batch of 128 where not even that is known.
PRIOR_PER_SEQ, PRIOR_SEQS = 40.0, 128
REST = 1e-6  # of a worker: rounding, not demand


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRules:
    """
    What bounds a pool, and how fast it follows.

    *workers_max* None is as many as run: then nobody scales it. A line is to be drained within *drain_s*; *down_s* is
    for how long arrivals must have asked for less before workers go, *idle_s* for how long nobody may have asked for
    anything before the last one goes, if *workers_min* is 0.
    """

    workers_min: int = 1
    workers_max: int | None = None
    drain_s: float = 60.0
    down_s: float = 60.0
    idle_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """
    A pool over all gateways: work in tokens, rates per second.

    *backlog_tokens* wait, as *waiting* requests; *in_flight* are on workers. *rate_per_worker* None is not known yet;
    then it goes by *seqs_each*, the places in a worker's batch (0: not known either). *ready_in_s* lists when each
    worker that starts is expected, *start_s* is what a start takes; None where no start was seen.
    """

    arrival_rate: float = 0.0
    backlog_tokens: float = 0.0
    waiting: int = 0
    in_flight: int = 0
    rate_per_worker: float | None = None
    seqs_each: float = 0.0
    ready: int = 0
    starting: int = 0
    ready_in_s: Sequence[float] = ()
    start_s: float | None = None

    @property
    def requests(self) -> int:
        """How many there are, waiting and in flight."""
        return self.waiting + self.in_flight

    @property
    def running(self) -> int:
        """Workers that are there or about to be."""
        return self.ready + self.starting

    @property
    def per_worker(self) -> float:
        """What one worker does per second, as far as is known."""
        return self.rate_per_worker or PRIOR_PER_SEQ * (self.seqs_each or PRIOR_SEQS)

    @property
    def backlog_s(self) -> float:
        """How long the ready workers need for what waits; one worker, if none is ready."""
        return self.backlog_tokens / (self.per_worker * max(1, self.ready))

    @property
    def backlog_ahead_tokens(self) -> float:
        """What will wait when a worker that is asked for now would be ready; what waits now, if that is not known."""
        if self.start_s is None:
            return self.backlog_tokens
        worked_s = self.ready * self.start_s + sum(max(0.0, self.start_s - left_s) for left_s in self.ready_in_s)
        return max(0.0, self.backlog_tokens + self.arrival_rate * self.start_s - self.per_worker * worked_s)

    def workers_for(self, backlog_tokens: float, drain_s: float, headroom: float = HEADROOM) -> int:
        """Give the workers that keep up with arrivals and drain *backlog_tokens* meanwhile."""
        work_rate = self.arrival_rate * headroom + backlog_tokens / drain_s
        return ceil(work_rate / self.per_worker - REST)


@dataclass(frozen=True, slots=True)
class Decision:
    """
    How many workers there should be, and why, in words.

    *wanted* is what the formula asks for now, before bounds and what is kept from a moment ago. *is_settled* is false
    for the first `down_s`: who has just begun to look may raise a pool, never lower it.
    """

    desired: int
    wanted: int
    reason: str
    is_settled: bool


class Scaler:
    """
    Decides for one pool; ask it about once a second.

    Times are of one clock that goes forward, in seconds. Memory is bounded by the seconds in `down_s`.
    """

    def __init__(self) -> None:
        self._arrivals: deque[tuple[float, int]] = deque()  # (when, workers for arrivals alone), fewer and fewer
        self._drainers = 0  # the most wanted since the line was last empty
        self._empty_s: float | None = None  # since when the line is
        self._busy_s: float | None = None  # when there was last a request
        self._began_s: float | None = None

    def decide(self, now_s: float, demand: Demand, rules: ScaleRules, *, may_lower: bool = True) -> Decision:
        """
        Say how many workers there should be.

        Without *may_lower* (what other gateways have is not known now) none that run are given up.
        """
        if self._began_s is None:
            self._began_s = self._busy_s = now_s
        is_settled = now_s - self._began_s >= rules.down_s
        wanted, why = self._wanted(now_s, demand, rules)
        desired, reason = self._kept(now_s, demand, rules, wanted, why)
        if demand.running > desired and not (is_settled and may_lower):
            desired, reason = demand.running, f"{demand.running} run; it is too early to know that fewer would do"
        bounded = self._bounded(desired, demand, rules)
        if bounded != desired:
            reason = f"{reason}; bounded to {bounded} by {rules.workers_min}..{_shown(rules.workers_max)}"
        return Decision(bounded, wanted, reason, is_settled)

    def _wanted(self, now_s: float, demand: Demand, rules: ScaleRules) -> tuple[int, str]:
        """What the formula asks for now; one for the first request, none once nobody has asked for a while."""
        if demand.requests:
            self._busy_s = now_s
        assert self._busy_s is not None, "set by the first decision"
        idle_s = now_s - self._busy_s
        if not demand.requests and (idle_s >= rules.idle_s or not demand.running):
            return 0, f"no request for {idle_s:.0f} s"
        ahead = demand.backlog_ahead_tokens
        wanted = max(1, demand.workers_for(ahead, rules.drain_s))
        if wanted > max(1, demand.requests):
            return max(1, demand.requests), f"{_work(demand, ahead)}, but there are only {demand.requests} requests"
        if wanted == 1 and not demand.running:
            return 1, "a request is there and no worker: the first one starts"
        return wanted, _work(demand, ahead)

    def _kept(self, now_s: float, demand: Demand, rules: ScaleRules, wanted: int, why: str) -> tuple[int, str]:
        """Keep what arrivals asked for lately, and what was asked for to drain the line."""
        if self._is_enough(demand, rules, wanted):
            wanted, why = demand.running, f"{demand.running} keep up, with a tenth to spare ({why})"
        arrivals = min(wanted, max(1, demand.workers_for(0.0, rules.drain_s))) if wanted else 0
        peak = self._peak(now_s, arrivals, rules.down_s) if wanted else self._forget()
        drainers = self._drain(now_s, demand, wanted)
        if wanted >= max(peak, drainers):
            return wanted, why
        if drainers > peak:
            return drainers, f"{drainers} were asked for to drain the line; they stay until it is empty ({why})"
        return peak, f"arrivals asked for {peak} within the last {rules.down_s:.0f} s ({why})"

    @staticmethod
    def _is_enough(demand: Demand, rules: ScaleRules, wanted: int) -> bool:
        """Tell whether those that run are fewer than wanted, but enough to let them be."""
        least = demand.workers_for(demand.backlog_ahead_tokens, rules.drain_s, HEADROOM_LEAST)
        return 0 < least <= demand.running < wanted

    def _peak(self, now_s: float, arrivals: int, down_s: float) -> int:
        while self._arrivals and self._arrivals[-1][1] <= arrivals:
            self._arrivals.pop()
        self._arrivals.append((now_s, arrivals))
        while self._arrivals[0][0] < now_s - down_s:
            self._arrivals.popleft()
        return self._arrivals[0][1]

    def _forget(self) -> int:
        self._arrivals.clear()
        return 0

    def _drain(self, now_s: float, demand: Demand, wanted: int) -> int:
        is_empty = not demand.waiting or (demand.ready > 0 and demand.backlog_s < EMPTY_S)
        self._empty_s = (now_s if self._empty_s is None else self._empty_s) if is_empty else None
        is_over = self._empty_s is not None and now_s - self._empty_s >= SETTLE_S
        self._drainers = 0 if is_over or not wanted else max(self._drainers, wanted)
        return self._drainers

    @staticmethod
    def _bounded(desired: int, demand: Demand, rules: ScaleRules) -> int:
        most = demand.running if rules.workers_max is None else rules.workers_max
        return min(max(desired, rules.workers_min), max(most, rules.workers_min))

    def __repr__(self) -> str:
        return f"<Scaler [{len(self._arrivals)} peaks kept, {self._drainers} drain the line]>"


class WorkRate:
    """Work per second, as an exponentially weighted mean; any clock that goes forward."""

    def __init__(self, constant_s: float = RATE_S) -> None:
        self._constant_s = constant_s
        self._per_s = 0.0
        self._seen_s = 0.0

    def add(self, tokens: float, now_s: float) -> None:
        """Note work."""
        self._per_s = self.per_s(now_s) + tokens / self._constant_s
        self._seen_s = now_s

    def per_s(self, now_s: float) -> float:
        """Give the rate as of now."""
        return self._per_s * exp(-max(0.0, now_s - self._seen_s) / self._constant_s)


class StepRate:
    """Work per second over the last STEP_S whole seconds, the busiest of them left out."""

    def __init__(self) -> None:
        self._second = 0
        self._tokens = [0.0] * (STEP_S + 1)  # of the second under way, then of those before

    def add(self, tokens: float, now_s: float) -> None:
        """Note work."""
        self._turn(now_s)
        self._tokens[0] += tokens

    def per_s(self, now_s: float) -> float:
        """Give the rate as of now."""
        self._turn(now_s)
        whole = self._tokens[1:]
        return (sum(whole) - max(whole)) / (STEP_S - 1)

    def _turn(self, now_s: float) -> None:
        past = int(now_s) - self._second
        if past > 0:
            kept = self._tokens[: max(0, STEP_S + 1 - past)]
            self._tokens = [0.0] * (STEP_S + 1 - len(kept)) + kept
            self._second = int(now_s)


class ArrivalRate:
    """Work that arrives per second: a calm mean, or while that catches up with a step, a quick one."""

    def __init__(self) -> None:
        self._calm, self._quick = WorkRate(CALM_S), StepRate()
        self._is_step = False

    def add(self, tokens: float, now_s: float) -> None:
        """Note work that arrives."""
        self._calm.add(tokens, now_s)
        self._quick.add(tokens, now_s)
        calm, quick = self._calm.per_s(now_s), self._quick.per_s(now_s)
        self._is_step = quick > (1.0 if self._is_step else STEP_SHARE) * calm

    def per_s(self, now_s: float) -> float:
        """Give the rate as of now."""
        calm = self._calm.per_s(now_s)
        return max(calm, self._quick.per_s(now_s)) if self._is_step else calm


class WorkerRate:
    """
    What one worker of a pool does per second, learnt from what busy ones did.

    With BUSY_SHARE of their places in use that is what they did. With less they can do at least what they did, and at
    least a third of what would follow in proportion: that only ever raises it.
    """

    def __init__(self, known: float | None = None) -> None:
        self.per_s = known
        self._seen_s: float | None = None
        self._ready, self._same_since_s = 0, 0.0
        self._served = self._busy = 0.0

    def observe(self, now_s: float, served_rate: float, ready: int, in_flight: int, slots: int) -> None:
        """Take what *ready* workers with so many *slots* do: *served_rate* is a mean over RATE_S. Once a second."""
        past_s = 0.0 if self._seen_s is None else now_s - self._seen_s
        self._seen_s = now_s
        if ready != self._ready:
            self._ready, self._same_since_s = ready, now_s
        gain = 1 - exp(-past_s / RATE_S)
        self._busy += gain * (min(1.0, in_flight / slots if slots else 0.0) - self._busy)
        if ready and slots and now_s - self._same_since_s >= STEADY_S and in_flight:
            self._learn(served_rate / ready, past_s)

    def _learn(self, each: float, past_s: float) -> None:
        is_busy = self._busy >= BUSY_SHARE
        can_do = each / self._busy if is_busy else max(each, each / max(self._busy, 1e-3) * SPARSE_SHARE)
        if can_do <= 0:
            return
        if self.per_s is None:
            self.per_s = can_do
        elif is_busy or can_do > self.per_s:
            self.per_s += (1 - exp(-past_s / LEARN_S)) * (can_do - self.per_s)


def _work(demand: Demand, ahead: float) -> str:
    """Say the formula in words."""
    known = "" if demand.rate_per_worker else " (a guess: none was seen busy yet)"
    foreseen = f", {ahead:,.0f} once a new worker is ready" if ahead > demand.backlog_tokens + 0.5 else ""
    return (
        f"{demand.arrival_rate:,.0f} tokens/s arrive and {demand.backlog_tokens:,.0f} wait{foreseen}; "
        f"a worker does {demand.per_worker:,.0f} tokens/s{known}"
    )


def _shown(workers_max: int | None) -> str:
    return "what runs" if workers_max is None else str(workers_max)
