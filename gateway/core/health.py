"""
The health of workers as one gateway sees it: passive outlier ejection, half-open trials, and never too many at once.

Only a worker's own faults count: what a client asked wrongly, or a client that left, says nothing of it. A worker with
too many faults in a row, or too large a share of faults among its answers, is *ejected*: it gets no request for a while
that doubles with each ejection, up to a cap. Then it is *half-open*: one request at a time, until one gets its first
token. A single fault makes a worker *suspect*: passed over for a few seconds while others can serve.

Thresholds and doubling are Envoy's outlier detection; so is the bound on how much of a pool may be ejected
(max_ejection_percent). Envoy's panic threshold is the same thought for when most of a pool is out: then all serve.
Here that follows from the bound, which holds at every moment: when workers go away, the ones that have the least time
left are let back in, so that one worker always serves. Half-open is the circuit breaker's (Nygard, "Release It!").

What one gateway finds is its own: a broken path from here says nothing of the path from there, and a gateway whose own
network fails must not eject a pool for all. A worker that is broken for everybody each finds within a few requests.

No clock and no I/O: times are seconds of any clock that only goes forward.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf

from gateway.core.sliding_window import SlidingCounts
from gateway.core.slow_start import SlowStart

JITTER = 0.2  # of an ejection, on top: gateways that ejected together do not try again together
_DOUBLINGS_MAX = 16


class WorkerFault(Enum):
    """What a worker did wrong. The labels are safe as metric labels."""

    UNREACHABLE = ("unreachable", "it cannot be reached")
    BROKEN = ("broken", "it broke off")
    STATUS = ("status", "it answered with an error of its own")
    FIRST_BYTE = ("first_byte", "it did not begin to answer in time")
    SILENT = ("silent", "it fell silent in mid-answer")
    REPORTED = ("reported", "it reported an error in its stream")

    def __init__(self, label: str, text: str) -> None:
        self.label = label
        self.text = text


# The worker is gone, and with it what it had of the request: nothing is computed twice at once if another one gets it.
LOST = frozenset({WorkerFault.UNREACHABLE, WorkerFault.BROKEN})


class HealthState(Enum):
    """How a gateway takes a worker."""

    TRUSTED = "trusted"
    SUSPECT = "suspect"
    EJECTED = "ejected"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """
    When a worker is passed over, and for how long.

    Ejected by *faults_in_row*, or by *fault_share* of at least *answers_min* answers within *window_s*; for
    *ejection_s* × 2^k, at most *ejection_s_max*. Of a pool's ready workers no more than *pool_share_max*, rounded down,
    is ejected or half-open.
    """

    suspect_s: float = 5.0
    faults_in_row: int = 5
    fault_share: float = 0.5
    answers_min: int = 20
    window_s: float = 30.0
    ejection_s: float = 10.0
    ejection_s_max: float = 300.0
    pool_share_max: float = 0.5
    slow_start_s: float = 15.0


DEFAULT_RULES = HealthRules()


class WorkerHealth:
    """How one gateway takes one worker. *until_s* is when it ends by itself, *reason* says why it has it."""

    def __init__(self, rules: HealthRules) -> None:
        self._rules = rules
        self.state = HealthState.TRUSTED
        self.until_s = inf
        self.reason = ""
        self.ejections = 0
        self.faults = dict.fromkeys(WorkerFault, 0)
        self.first_tokens = 0
        self.ttft_s = 0.0  # the sum of their times
        self.slow_start = SlowStart(rules.slow_start_s)
        self._in_row = 0
        self._counts = SlidingCounts(rules.window_s)  # answers, faults
        self._level = 0  # ejections that followed one another
        self._trial = 0  # how often it was half-open
        self._trying = 0  # requests in flight that began in the present trial
        self._back_s = -inf

    def __repr__(self) -> str:
        return f"<WorkerHealth [{self.state.value}{': ' if self.reason else ''}{self.reason}]>"

    @property
    def is_passed_over(self) -> bool:
        """It gets nothing while another can serve."""
        return self.state is HealthState.SUSPECT or self.state is HealthState.EJECTED

    @property
    def is_sidelined(self) -> bool:
        """It has been found broken, and has not proved otherwise."""
        return self.state is HealthState.EJECTED or self.state is HealthState.HALF_OPEN

    def seqs(self, credit_seqs: int, in_flight: int, now_s: float) -> int:
        """
        Give how many of *credit_seqs* sequences it may have, with *in_flight* at it.

        An ejected worker has all its credit, for requests that no other worker can serve.
        """
        if self.state is HealthState.EJECTED:
            return credit_seqs
        if self.state is HealthState.HALF_OPEN:
            return min(credit_seqs, in_flight + (self._trying == 0))
        return self.slow_start.seqs(credit_seqs, now_s)

    def due_s(self, now_s: float) -> float:
        """Tell when to look at it again."""
        return min(self.until_s, self.slow_start.due_s(now_s))

    # What happens to it.

    def begin_request(self) -> int:
        """Take note of a request that goes there; give which trial it is, 0 for none."""
        if self.state is not HealthState.HALF_OPEN:
            return 0
        self._trying += 1
        return self._trial

    def end_request(self, trial: int) -> None:
        """Take note of the end of a request that was such a *trial*: the next one may begin, if it proved nothing."""
        if trial and trial == self._trial:
            self._trying -= 1

    def note_fault(self, fault: WorkerFault, now_s: float) -> None:
        """Count a fault; what follows from it is for the pool to decide."""
        self.faults[fault] += 1
        self._in_row += 1
        self._counts.add(now_s, 1, 1)

    def note_first_token(self, now_s: float, ttft_s: float) -> bool:
        """Take a first token, which ends a trial well. The next fault ejects again, until an answer is whole."""
        self.first_tokens += 1
        self.ttft_s += ttft_s
        self.slow_start.note_answer()
        if self.state is not HealthState.HALF_OPEN:
            return False
        self.come_back(now_s)
        self._in_row = self._rules.faults_in_row - 1
        return True

    def note_answer(self, now_s: float) -> bool:
        """Take an answer that came to its end well; tell whether that changes how the worker is taken."""
        self._counts.add(now_s, 1)
        self._in_row = 0
        if self.state is HealthState.HALF_OPEN:
            self.come_back(now_s)
        elif self.state is HealthState.SUSPECT:
            self.trust()
        else:
            return False
        return True

    def note_new_engine(self) -> None:
        """Forget what another process did. One that took an ejected one's place is tried at once, not trusted."""
        self._in_row = 0
        self._counts.clear()
        if self.state is HealthState.EJECTED:
            self._begin_trial()
        elif self.state is HealthState.SUSPECT:
            self.trust()

    def look(self, now_s: float) -> bool:
        """Let time have its way; tell whether it changed anything."""
        if now_s < self.until_s:
            return self.slow_start.look(now_s)
        if self.state is HealthState.EJECTED:
            self._begin_trial()
        else:
            self.trust()
        return True

    # What is decided about it.

    def verdict(self, now_s: float) -> str:
        """Say why it should be ejected; empty if there is no reason."""
        rules, counts = self._rules, self._counts
        if self.state is HealthState.HALF_OPEN:
            return "its trial failed"
        if self._in_row >= rules.faults_in_row:
            return f"{self._in_row} faults in a row"
        counts.look(now_s)
        if counts.first >= rules.answers_min and counts.second >= rules.fault_share * counts.first:
            return f"{counts.second} faults among {counts.first} answers within {rules.window_s:g} s"
        return ""

    def suspect(self, reason: str, now_s: float) -> None:
        """Have it passed over for a few seconds, or until it answers well."""
        self._stand(HealthState.SUSPECT, reason, now_s + self._rules.suspect_s)

    def eject(self, reason: str, now_s: float, jitter: float) -> None:
        """Give it nothing for base × 2^k seconds; *jitter* is from 0 to 1. A window of good service takes one off k."""
        rules = self._rules
        if not self.is_sidelined:
            self._level -= int(min(self._level, (now_s - self._back_s) / rules.window_s))
        for_s = min(rules.ejection_s_max, rules.ejection_s * 2 ** min(self._level, _DOUBLINGS_MAX))
        self._level += 1
        self.ejections += 1
        self._stand(HealthState.EJECTED, reason, now_s + for_s * (1 + JITTER * jitter))

    def trust(self) -> None:
        """Take it as any other."""
        self._stand(HealthState.TRUSTED, "", inf)

    def come_back(self, now_s: float) -> None:
        """Take it as any other again, with its credit by and by."""
        self.trust()
        self._back_s = now_s
        self._counts.clear()
        self.slow_start.begin(now_s)

    def _begin_trial(self) -> None:
        self._trial, self._trying = self._trial + 1, 0
        self._stand(HealthState.HALF_OPEN, self.reason, inf)

    def _stand(self, state: HealthState, reason: str, until_s: float) -> None:
        self.state, self.reason, self.until_s = state, reason, until_s


class PoolHealth:
    """
    Which of a pool's workers are passed over, and which may be: the bound on the sidelined holds after every call.

    The methods give the names of the workers that are taken otherwise now. *dice* gives numbers from 0 to 1.
    """

    def __init__(self, rules: HealthRules, dice: Callable[[], float] = random.random) -> None:
        self._rules = rules
        self._dice = dice
        self._workers: dict[str, WorkerHealth] = {}
        self._ready: set[str] = set()
        self._doubted: dict[str, WorkerHealth] = {}  # that are not trusted, the one that failed last at the end

    def __repr__(self) -> str:
        return f"<PoolHealth [{len(self.sidelined())} sidelined of {len(self._ready)} ready]>"

    @property
    def sidelined_max(self) -> int:
        """How many may be ejected or half-open now."""
        return int(self._rules.pool_share_max * len(self._ready))

    def sidelined(self) -> list[str]:
        """List those that would serve if they were not ejected or half-open."""
        return [worker for worker, of in self._doubted.items() if of.is_sidelined and worker in self._ready]

    def join(self, worker: str) -> WorkerHealth:
        """Take in a worker; give the health of one that is known."""
        return self._workers.setdefault(worker, WorkerHealth(self._rules))

    def leave(self, worker: str, now_s: float) -> list[str]:
        """Forget a worker."""
        self._workers.pop(worker, None)
        self._doubted.pop(worker, None)
        self._ready.discard(worker)
        return self._let_back(now_s)

    def note_ready(self, worker: str, now_s: float, *, is_ready: bool) -> list[str]:
        """Take note of whether a worker gets requests at all."""
        if is_ready == (worker in self._ready):
            return []
        (self._ready.add if is_ready else self._ready.discard)(worker)
        return self._let_back(now_s)

    def note_fault(self, worker: str, fault: WorkerFault, now_s: float) -> list[str]:
        """Count a fault of *worker*: it is suspect from now on, or ejected if that is due and the pool can spare it."""
        health = self._workers.get(worker)
        if health is None:
            return []
        health.note_fault(fault, now_s)
        if health.state is HealthState.EJECTED:
            return []
        self._doubted.pop(worker, None)
        self._judge(worker, health, fault, now_s)
        self._doubted[worker] = health
        return [worker, *self._let_back(now_s)]

    def _judge(self, worker: str, health: WorkerHealth, fault: WorkerFault, now_s: float) -> None:
        verdict = health.verdict(now_s)
        if verdict and worker in self._ready and len(self.sidelined()) < self.sidelined_max:
            health.eject(f"{verdict}, the last: {fault.text}", now_s, self._dice())
        else:
            spared = f"; the pool can spare {self.sidelined_max} of its {len(self._ready)}" if verdict else ""
            health.suspect(f"{verdict or 'a fault'}, the last: {fault.text}{spared}", now_s)

    def returning(self, now_s: float, within_s: float) -> list[str]:
        """List the workers whose ejection ends in *within_s* seconds or less."""
        ejected = ((worker, of) for worker, of in self._doubted.items() if of.state is HealthState.EJECTED)
        return [worker for worker, of in ejected if of.until_s - now_s <= within_s]

    def keep_ejected(self, worker: str, fault: WorkerFault, now_s: float) -> list[str]:
        """Take note that an ejected worker does not even answer: its ejection begins anew, longer."""
        health = self._doubted.get(worker)
        if health is None or health.state is not HealthState.EJECTED:
            return []
        health.eject(f"no good answer at /health, the last fault: {fault.text}", now_s, self._dice())
        return [worker]

    def note_first_token(self, worker: str, now_s: float, ttft_s: float) -> list[str]:
        """Take the first token of an answer of *worker*, *ttft_s* after it was sent the request."""
        health = self._workers.get(worker)
        return self._changed([worker] if health and health.note_first_token(now_s, ttft_s) else [])

    def note_answer(self, worker: str, now_s: float) -> list[str]:
        """Take an answer of *worker* that came to its end well."""
        health = self._workers.get(worker)
        return self._changed([worker] if health and health.note_answer(now_s) else [])

    def note_new_engine(self, worker: str) -> list[str]:
        """Take note that another process does the work of *worker* now."""
        self._workers[worker].note_new_engine()
        return self._changed([worker])

    def look(self, now_s: float) -> list[str]:
        """Let time have its way. Constant work for each worker."""
        return self._changed([worker for worker, health in self._workers.items() if health.look(now_s)])

    def due_s(self, now_s: float) -> float:
        """Tell when to look again."""
        return min((health.due_s(now_s) for health in self._workers.values()), default=inf)

    def _changed(self, workers: Sequence[str]) -> list[str]:
        """Note who is trusted again."""
        for worker in workers:
            if self._workers[worker].state is HealthState.TRUSTED:
                self._doubted.pop(worker, None)
        return list(workers)

    def _let_back(self, now_s: float) -> list[str]:
        """
        Let in whom the pool cannot spare: of the sidelined those with the least time left, of suspects the earliest.

        Suspects are passed over only as far as the bound has room beside the sidelined; but one always may be.
        """
        if not self._doubted:
            return []
        sidelined = sorted(self.sidelined(), key=self._time_left)
        excess = max(0, len(sidelined) - self.sidelined_max)
        for worker in sidelined[:excess]:
            self._doubted[worker].come_back(now_s)
        suspects = [worker for worker, of in self._doubted.items() if of.state is HealthState.SUSPECT]
        suspects = [worker for worker in suspects if worker in self._ready]
        room = max(0, max(1, self.sidelined_max) - (len(sidelined) - excess))
        pardoned = suspects[: max(0, len(suspects) - room)]
        for worker in pardoned:
            self._doubted[worker].trust()
        return self._changed(sidelined[:excess] + pardoned)

    def _time_left(self, worker: str) -> float:
        health = self._doubted[worker]
        return 0.0 if health.state is HealthState.HALF_OPEN else health.until_s
