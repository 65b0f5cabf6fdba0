"""
The simulated engine's batch: who is prefilled, who decodes, who waits. No clock, no I/O.

One step, as in vLLM: every decoding sequence makes one token, and what is left of the step's token budget prefills
sequences first come, first served. A step lasts the inter-token time plus what its prefill takes.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from workers.engines.sim_cache import BLOCK_TOKENS, BlockCache
from workers.engines.sim_tokens import TURN_END, fold, next_id

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast and how large the engine is."""

    prefill_tokens_per_s: float = 20_000.0
    inter_token_s: float = 0.02
    max_num_seqs: int = 256
    max_batched_tokens: int = 8192
    cache_blocks: int = 4096


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence(Generic[Owner]):
    """
    One choice of one prompt. *state* is the rolling hash of all its ids, *keys* stand for its full blocks.

    *choice* is its place in the answer, *variant* tells the answers to one prompt apart (n > 1). *mean_tokens* is the
    mean length of an answer that ends by itself, 0 if it may not.
    """

    owner: Owner
    prompt_tokens: int
    state: int
    keys: list[int]
    max_tokens: int
    salt: int = 0
    choice: int = 0
    variant: int = 0
    min_tokens: int = 0
    mean_tokens: int = 0
    generated: int = 0
    cached: int = 0
    last_id: int = -1
    finish_reason: str | None = None
    computed: int = 0
    published: int = 0
    blocks: int = 0

    @property
    def length(self) -> int:
        return self.prompt_tokens + self.generated


@dataclass(slots=True)
class Counters:
    """What vLLM counts, cumulative."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    cache_queries: int = 0
    cache_hits: int = 0
    preemptions: int = 0
    finished: Counter[str] = field(default_factory=Counter)


class Batch(Generic[Owner]):
    """All sequences of an engine. Call `begin_step`, let its time pass, call `end_step`, and so on."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.cache = BlockCache(pace.cache_blocks)
        self.counters = Counters()
        self._waiting: deque[Sequence[Owner]] = deque()
        self._prefilling: dict[Sequence[Owner], None] = {}
        self._decoding: dict[Sequence[Owner], None] = {}
        self._chunks: list[tuple[Sequence[Owner], int]] = []  # of this step: whose prefill goes on by how much
        self._due: list[Sequence[Owner]] = []  # of this step: who decodes
        self.left_waiting = 0  # whom the last step had no room for: what vLLM reports as waiting

    def __repr__(self) -> str:
        return f"<Batch [{self.running} running, {self.waiting} waiting, {self.cache!r}]>"

    @property
    def running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence[Owner]) -> None:
        """Put *sequence* at the end of the line."""
        self._waiting.append(sequence)

    def abort(self, sequence: Sequence[Owner]) -> None:
        """Drop *sequence*, wherever it is; a finished one is left alone."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "abort"
            self._remove(sequence)

    def begin_step(self) -> float | None:
        """Plan the next step; give its duration in seconds, None when there is nothing to do."""
        self._due = list(self._decoding)
        self._chunks = []
        budget = max(self.pace.max_batched_tokens - len(self._due), 1)
        for sequence in self._prefilling:
            budget -= self._plan_prefill(sequence, budget)
        while self._waiting and budget > 0 and self.running < self.pace.max_num_seqs and self._admit(self._waiting[0]):
            sequence = self._waiting.popleft()
            budget -= self._plan_prefill(sequence, budget)
        self.left_waiting = len(self._waiting)
        if not self._due and not self._chunks:
            return None
        prefill_tokens = sum(tokens for _, tokens in self._chunks)
        return self.pace.inter_token_s + prefill_tokens / self.pace.prefill_tokens_per_s

    def end_step(self) -> list[Sequence[Owner]]:
        """Carry out what was planned; give the sequences that made a token, each with its `last_id`."""
        producing = [sequence for sequence in self._due if sequence in self._decoding]
        for sequence, tokens in self._chunks:
            if sequence in self._prefilling:
                sequence.computed += tokens
                if sequence.computed == sequence.length:
                    self._start_decoding(sequence)
                    producing.append(sequence)
        made = []
        for sequence in producing:
            if self._make_room(sequence):
                self._generate(sequence)
                made.append(sequence)
        return made

    def _plan_prefill(self, sequence: Sequence[Owner], budget: int) -> int:
        tokens = min(sequence.length - sequence.computed, max(budget, 0))
        if tokens:
            self._chunks.append((sequence, tokens))
        return tokens

    def _admit(self, sequence: Sequence[Owner]) -> bool:
        """Give *sequence* its blocks and let it run; False if the cache has no room for it now."""
        reusable = (sequence.length - 1) // BLOCK_TOKENS  # the last token is always computed: it makes the next one
        hits = self.cache.pin(sequence.keys[:reusable])
        blocks = sequence.length // BLOCK_TOKENS + 1
        if not self.cache.take(blocks - hits):
            self.cache.free(sequence.keys[:hits], 0)
            return False
        sequence.blocks, sequence.published = blocks, hits
        sequence.computed = hits * BLOCK_TOKENS
        self.counters.cache_queries += sequence.length
        self.counters.cache_hits += sequence.computed
        if not sequence.generated:
            sequence.cached = sequence.computed
        self._prefilling[sequence] = None
        return True

    def _start_decoding(self, sequence: Sequence[Owner]) -> None:
        del self._prefilling[sequence]
        self._decoding[sequence] = None
        if not sequence.generated:
            self.counters.prompt_tokens += sequence.prompt_tokens
            self.counters.cached_tokens += sequence.cached

    def _make_room(self, sequence: Sequence[Owner]) -> bool:
        """Get the block that the next token needs, preempting the youngest; False if *sequence* itself had to go."""
        if sequence not in self._decoding:
            return False  # preempted for another one in this very step
        if sequence.length < sequence.blocks * BLOCK_TOKENS:
            return True
        while not self.cache.take(1):
            youngest = next(reversed(self._prefilling or self._decoding))
            self._preempt(youngest)
            if youngest is sequence:
                return False
        sequence.blocks += 1
        return True

    def _preempt(self, sequence: Sequence[Owner]) -> None:
        self._remove(sequence)
        self._waiting.appendleft(sequence)
        sequence.computed = sequence.published = sequence.blocks = 0
        self.counters.preemptions += 1

    def _generate(self, sequence: Sequence[Owner]) -> None:
        mean_tokens = sequence.mean_tokens if sequence.generated >= sequence.min_tokens else 0
        sequence.last_id = token = next_id(sequence.state, sequence.variant, mean_tokens)
        sequence.state = fold(sequence.state, (token,))
        sequence.generated += 1
        self.counters.generation_tokens += 1
        length = sequence.length
        if length % BLOCK_TOKENS == 0:
            sequence.keys.append(sequence.state ^ sequence.salt)
        self._publish(sequence, (length - 1) // BLOCK_TOKENS)  # the newest token is computed in the next step only
        if token == TURN_END or sequence.generated >= sequence.max_tokens:
            self._finish(sequence, "stop" if token == TURN_END else "length")

    def _publish(self, sequence: Sequence[Owner], full_blocks: int) -> None:
        for key in sequence.keys[sequence.published : full_blocks]:
            self.cache.publish(key)
            sequence.published += 1

    def _finish(self, sequence: Sequence[Owner], reason: str) -> None:
        sequence.finish_reason = reason
        self.counters.finished[reason] += 1
        self._remove(sequence)

    def _remove(self, sequence: Sequence[Owner]) -> None:
        if sequence in self._decoding or sequence in self._prefilling:
            self._decoding.pop(sequence, None)
            self._prefilling.pop(sequence, None)
            self.cache.free(sequence.keys[: sequence.published], sequence.blocks - sequence.published)
        else:
            self._waiting.remove(sequence)


def block_keys(ids: list[int], salt: int) -> tuple[int, list[int]]:
    """Fold *ids*: give the final state, and the key of each full block."""
    state, keys = 0, []
    for start in range(0, len(ids), BLOCK_TOKENS):
        block = ids[start : start + BLOCK_TOKENS]
        state = fold(state, block)
        if len(block) == BLOCK_TOKENS:
            keys.append(state ^ salt)
    return state, keys
