"""
Worker credit: how many sequences a worker may have from all gateways, and how many prompt tokens it has yet to prefill.

An engine's own waiting queue knows neither classes nor tenants, and a request in it can no longer be given to another
worker. So a worker is given only what it takes into its batch at once; what that is, its own behaviour shows:

- *AIMD* (Chiu and Jain, 1989): the credit is cut by 0.7 when the engine preempted a sequence or lets more than two
  wait, and grows by a constant per beat while it is used up and nothing speaks against it. As in TCP, one incident is
  one cut: none follows within a reaction time, a beat or a mean TTFT, whichever is longer. Up to nine tenths of where
  the last incident began the growth is steady, above it is a slow probe (the plateau of CUBIC, RFC 9438).
- *Gradient* (Netflix concurrency-limits, Gradient2Limit): a short average of latency against a long one. Latency is
  TTFT per engine step that the prompt tokens ahead fill, so that the long average predicts TTFT, and ITL. Over twice
  the usual, credit is cut, but by a quarter at most: an engine that neither queues nor preempts may be slow for reasons
  that fewer sequences do not cure, such as a neighbour on its machine.

No clock and no I/O: times are seconds of any clock that only goes forward. The floor is 4 sequences, or the engine's
own limit if that is smaller; the ceiling is the engine's own limit, from which the credit starts.
"""

from dataclasses import dataclass
from enum import Enum
from math import isqrt

from gateway.core.engine_load import EngineLoad
from gateway.core.roster import Beat

CUT = 0.7
FLOOR_SEQS = 4
WAITING_MAX = 2  # arrivals between two steps of an engine are no queue
BEAT_S = 1.0
JUDGED_S_MIN = BEAT_S / 2  # a beat reaches a gateway in several ways; it is judged once
KNEE = 0.9  # of the credit at the last incident: up to there growth is steady, above it a probe
PROBE_BEATS = 5
KV_CACHE_FULL = 0.95  # growing any further would only buy preemptions

LATENCY_TOLERANCE = 2.0  # latency over this many times its long average counts as congestion; Gradient2's is 1.5
GRADIENT_MIN = 0.8  # what latency alone may take at once
LATENCY_SHARE_MIN = 0.75  # what it leaves of the engine's limit
SHORT_SAMPLES, LONG_SAMPLES = 10, 100
LONG_DECAY = 0.95  # Gradient2: after a phase of congestion the long average must come down again

RATE_SAMPLES = 50  # first tokens until a worker counts as faster or slower than others
PREFILL_STEPS = 2  # one step's prompt tokens are computed while the next one's arrive
BATCHED_TOKENS_GUESS = 2048  # vLLM's default on small GPUs and CPUs
STEP_S_GUESS = 0.5  # of an engine that has not shown a first token yet: slower than most
UNLIMITED = 1 << 30


class CreditMode(Enum):
    """How a worker's credit is found: by its behaviour, from its engine's limits alone, or not at all."""

    ADAPTIVE = "adaptive"
    FIXED = "fixed"
    OFF = "off"


@dataclass(slots=True)
class _Drift:
    """A latency's short average against its long one."""

    short: float = 0.0
    long: float = 0.0
    samples: int = 0

    def add(self, value: float) -> None:
        self.samples += 1
        self.short += (value - self.short) / min(self.samples, SHORT_SAMPLES)
        self.long += (value - self.long) / min(self.samples, LONG_SAMPLES)
        if self.long > LATENCY_TOLERANCE * self.short:
            self.long *= LONG_DECAY

    @property
    def gradient(self) -> float:
        """1 while latency is as usual, less the more it exceeds that; never below GRADIENT_MIN."""
        if self.samples < SHORT_SAMPLES or self.short <= LATENCY_TOLERANCE * self.long:
            return 1.0
        return max(GRADIENT_MIN, LATENCY_TOLERANCE * self.long / self.short)


class WorkerCredit:
    """The credit of one engine, from its start to its end."""

    def __init__(self, max_seqs: int, max_batched_tokens: int = 0, mode: CreditMode = CreditMode.ADAPTIVE) -> None:
        self._max_seqs = max_seqs if mode is not CreditMode.OFF else UNLIMITED * bool(max_seqs)
        self._batched_tokens = max_batched_tokens or BATCHED_TOKENS_GUESS
        self._prefill_tokens_max = PREFILL_STEPS * self._batched_tokens
        if mode is CreditMode.OFF:
            self._prefill_tokens_max = UNLIMITED
        self._adapts = mode is CreditMode.ADAPTIVE
        self._floor = min(FLOOR_SEQS, self._max_seqs)
        self._step = max(1, isqrt(max_seqs) // 4)
        self._seqs = float(self._max_seqs)
        self._knee = self._seqs
        self._used = 0
        self._beats = 0
        self._cut_s = float("-inf")
        self._judged: tuple[float, Beat] | None = None
        self._preemptions: int | None = None
        self._kv_cache_usage = 0.0
        self._prefill = _Drift()  # s of TTFT per step ahead
        self._itl = _Drift()
        self._ttft_s = 0.0

    def __repr__(self) -> str:
        return f"<WorkerCredit [{self.seqs} of {self._max_seqs} sequences, {self.prefill_tokens} prompt tokens]>"

    @property
    def seqs(self) -> int:
        """How many sequences the worker may have in flight, over all gateways."""
        return int(self._seqs)

    @property
    def prefill_tokens(self) -> int:
        """How many prompt tokens may be outstanding; at least one step's, whatever the cuts."""
        if not self.is_cut:
            return self._prefill_tokens_max
        return max(self._batched_tokens, int(self._prefill_tokens_max * self._seqs / self._max_seqs))

    @property
    def is_cut(self) -> bool:
        return self._seqs < self._max_seqs

    def predicted_ttft_s(self, prefill_tokens: int) -> float:
        """Predict the time to the first token with *prefill_tokens* outstanding, the request's own included."""
        step_s = self._prefill.long if self._prefill.samples else STEP_S_GUESS
        return self._steps(prefill_tokens) * step_s

    @property
    def prefill_tokens_per_s(self) -> float:
        """How many prompt tokens the engine computes in a second, as enough first tokens have shown it; 0 before."""
        shown = self._prefill.long if self._prefill.samples >= RATE_SAMPLES else 0.0
        return self._batched_tokens / shown if shown else 0.0

    def use(self, seqs: int) -> None:
        """Note that *seqs* sequences are in flight: only a credit that is used up may grow."""
        self._used = max(self._used, seqs)

    def note_first_token(self, ttft_s: float, prefill_tokens: int) -> None:
        """Take an observed TTFT of a request that had *prefill_tokens* ahead of it, its own included."""
        self._prefill.add(ttft_s / self._steps(prefill_tokens))
        self._ttft_s += (ttft_s - self._ttft_s) / min(self._prefill.samples, SHORT_SAMPLES)

    def hear(self, now_s: float, load: EngineLoad) -> bool:
        """Take the engine's word from an answer's head; tell whether the credit changed."""
        self._kv_cache_usage = load.kv_cache_usage
        return load.waiting > WAITING_MAX and self._cut(now_s, CUT)

    def beat(self, now_s: float, beat: Beat) -> None:
        """Take a beat: the one moment of growth, and of every cut that no answer's head has asked for before."""
        has_preempted = self._preemptions is not None and beat.preemptions_total > self._preemptions
        self._preemptions, self._kv_cache_usage = beat.preemptions_total, beat.kv_cache_usage
        is_overloaded = has_preempted or beat.waiting > WAITING_MAX
        if is_overloaded:
            self._cut(now_s, CUT)
        if self._judged is None or now_s - self._judged[0] >= JUDGED_S_MIN:
            self._learn_itl(now_s, beat)
            if self._used >= self.seqs and not is_overloaded:
                self._follow_latency(now_s)
            self._judged = (now_s, beat)
            self._used = 0

    def _steps(self, prefill_tokens: int) -> float:
        """How many steps *prefill_tokens* take, the one they come into included."""
        return 1 + prefill_tokens / self._batched_tokens

    def _follow_latency(self, now_s: float) -> None:
        gradient = min(self._prefill.gradient, self._itl.gradient)
        if gradient < 1:
            self._cut(now_s, gradient, LATENCY_SHARE_MIN * self._max_seqs)
        elif self._kv_cache_usage < KV_CACHE_FULL:
            self._grow()

    def _learn_itl(self, now_s: float, beat: Beat) -> None:
        """Take the mean time between a sequence's tokens since the last beat from the engine's own counters."""
        if self._judged is None:
            return
        then_s, before = self._judged
        tokens = beat.completion_tokens_total - before.completion_tokens_total
        if tokens > 0 and beat.running and before.running:
            self._itl.add((beat.running + before.running) / 2 * (now_s - then_s) / tokens)

    def _cut(self, now_s: float, factor: float, seqs_min: float = 0.0) -> bool:
        if not self._adapts or now_s - self._cut_s < max(BEAT_S, self._ttft_s):
            return False
        self._cut_s, self._knee, self._beats = now_s, KNEE * self._seqs, 0
        self._seqs = max(float(self._floor), min(self._seqs, seqs_min), self._seqs * factor)
        return True

    def _grow(self) -> None:
        self._beats += 1
        if self._seqs < self._knee or self._beats % PROBE_BEATS == 0:
            self._seqs = min(float(self._max_seqs), self._seqs + self._step)
