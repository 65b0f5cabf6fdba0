"""
An engine in virtual time: who is prefilled, who decodes, and when each token group is done.

One step makes one token for every decoding sequence; what is left of the step's token budget prefills sequences first
come, first served. A step lasts

    inter-token time + inter-token time per sequence × decoding sequences + prefilled tokens ÷ prefill rate

and a prefill that ends in it gives its first token at its end: the pace of the simulated engine of workers/engines/,
which a test holds this one to, with a second term for engines whose steps slow down as the batch grows. Steps without
prefill are all alike, so a stretch of them is one event; it is cut short when somebody joins.

Not modelled: KV cache. Its size limits what *max_num_seqs* should be; hits in it shorten the prompts of a load.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from math import floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast and how large an engine is; the defaults are those of the simulated engine."""

    prefill_tokens_per_s: float = 20_000.0
    inter_token_s: float = 0.02
    inter_token_s_per_seq: float = 0.0
    max_num_seqs: int = 256
    max_batched_tokens: int = 8192


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer being made; *first_step* ends with its first token."""

    prompt_tokens: int
    output_tokens: int
    computed: int = 0
    first_step: int | None = None
    is_aborted: bool = False


@dataclass(slots=True)
class Happened:
    """What the end of a stretch brought: whose first token, and whose last."""

    first: list[Sequence] = field(default_factory=list)
    ended: list[Sequence] = field(default_factory=list)


class Engine:
    """
    Advances from event to event: `ends_s` is when the stretch of steps that is under way ends, None while idle.

    Call `end_stretch` at that very time; `add` and `abort` at any time up to then. After `add` `ends_s` may differ.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: deque[Sequence] = deque()
        self._prefilling: dict[Sequence, None] = {}
        self._decoding: list[tuple[int, int, Sequence]] = []  # a heap by the step that ends with the last token
        self._order = count()
        self._chunks: list[tuple[Sequence, int]] = []
        self._done = 0  # steps that have ended
        self._began_s = 0.0
        self._step_s = 0.0
        self._steps = 0  # of the stretch under way
        self.busy_s = 0.0
        self.wasted_tokens = 0  # of prompts that were prefilled in vain
        self.ends_s: float | None = None

    def __repr__(self) -> str:
        return f"<Engine [{self.running} running, {len(self._waiting)} waiting]>"

    @property
    def running(self) -> int:
        """How many sequences are in the batch."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def prefill_left(self) -> int:
        """How many prompt tokens are yet to be computed."""
        left = sum(sequence.prompt_tokens - sequence.computed for sequence in self._prefilling)
        return left + sum(sequence.prompt_tokens for sequence in self._waiting)

    def busy_until(self, now_s: float) -> float:
        """Tell how long it had work to do until *now_s*."""
        return self.busy_s + (0.0 if self.ends_s is None else now_s - self._began_s)

    def add(self, sequence: Sequence, now_s: float) -> None:
        """Let *sequence* join with the next step, if the batch has room."""
        self._waiting.append(sequence)
        if self.ends_s is None:
            self._begin(now_s)
        elif self._steps > 1 and self.running < self._pace.max_num_seqs:
            self._cut_short(now_s)

    def abort(self, sequence: Sequence) -> None:
        """Drop *sequence*, which has no token yet; what this step computes for it is computed to its end."""
        assert sequence.first_step is None, "only a sequence without a token is aborted"
        sequence.is_aborted = True
        self.wasted_tokens += sequence.computed
        if sequence in self._prefilling:
            del self._prefilling[sequence]
        else:
            self._waiting.remove(sequence)

    def generated(self, sequence: Sequence, now_s: float) -> int:
        """Count the tokens that *sequence* has at *now_s*."""
        if sequence.first_step is None:
            return 0
        return min(self._done + self._steps_until(now_s) - sequence.first_step + 1, sequence.output_tokens)

    def end_stretch(self) -> Happened:
        """Carry out the stretch that ends now and begin the next one."""
        assert self.ends_s is not None, "an idle engine has nothing to end"
        now_s, happened = self.ends_s, Happened()
        self._done += self._steps
        self.busy_s += now_s - self._began_s
        for sequence, tokens in self._chunks:
            self._prefill(sequence, tokens, happened)
        while self._decoding and self._decoding[0][0] <= self._done:
            happened.ended.append(heapq.heappop(self._decoding)[2])
        self._begin(now_s)
        return happened

    def _prefill(self, sequence: Sequence, tokens: int, happened: Happened) -> None:
        if sequence.is_aborted:
            self.wasted_tokens += tokens
            return
        sequence.computed += tokens
        if sequence.computed < sequence.prompt_tokens:
            return
        del self._prefilling[sequence]
        sequence.first_step = self._done
        happened.first.append(sequence)
        heapq.heappush(self._decoding, (self._done + sequence.output_tokens - 1, next(self._order), sequence))

    def _begin(self, now_s: float) -> None:
        due, pace = len(self._decoding), self._pace
        self._chunks = self._plan_prefill(max(pace.max_batched_tokens - due, 1))
        if not due and not self._chunks:
            self.ends_s = None
            return
        prefill_s = sum(tokens for _, tokens in self._chunks) / pace.prefill_tokens_per_s
        self._began_s = now_s
        self._step_s = pace.inter_token_s + pace.inter_token_s_per_seq * due + prefill_s
        self._steps = 1 if self._chunks else self._decoding[0][0] - self._done
        self.ends_s = now_s + self._steps * self._step_s

    def _plan_prefill(self, budget: int) -> list[tuple[Sequence, int]]:
        chunks = []
        while self._waiting and self.running < self._pace.max_num_seqs:
            self._prefilling[self._waiting.popleft()] = None
        for sequence in self._prefilling:
            tokens = min(sequence.prompt_tokens - sequence.computed, budget)
            if not tokens:
                break
            chunks.append((sequence, tokens))
            budget -= tokens
        return chunks

    def _cut_short(self, now_s: float) -> None:
        self._steps = min(self._steps, self._steps_until(now_s) + 1)
        self.ends_s = self._began_s + self._steps * self._step_s

    def _steps_until(self, now_s: float) -> int:
        """Count the steps of the stretch under way that have ended by *now_s*."""
        if self.ends_s is None:
            return 0
        return min(self._steps, max(0, floor((now_s - self._began_s) / self._step_s)))
