"""
From requests per second to simulated workers: how many, and how fast each must be.

A worker has SEQS places, as many as an engine needs to be kept busy while one of them changes hands. Its speed follows
from its share of the capacity. An engine's step lasts the inter-token time plus its prefill; a request takes one step
for each token, and waits for one before: places fall free when a step ends, and who takes one then is a moment too late
for the next. With N places, o tokens, p prompt tokens at the prefill rate R and λ requests per second:
N = λ · ((o + 1) · t + N · p / R), solved here for the inter-token time t.
"""

import math
from dataclasses import dataclass

from gateway.errors import InvalidInput

SEQS = 8
WORKER_RATE = 7.5  # requests per second of one worker: a request then takes about a second
PREFILL_TOKENS_PER_S = 40_000.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """
    Simulated workers that serve a given rate together; *added* of them only after the scale-up.

    Each says that it is loading for *load_s* before it is ready. The first ones do so before the burst: from them the
    gateways learn how long that takes, as they would have from the starts of other days.
    """

    workers: int
    added: int
    seqs: int
    inter_token_s: float
    load_s: float = 0.0
    prefill_tokens_per_s: float = PREFILL_TOKENS_PER_S


def fleet_for(rate: float, growth: float, *, load_s: float, prompt_tokens: int, output_tokens: int) -> Fleet:
    """
    Give the workers for *rate* requests per second, growing to *growth* times as many.

    Raises InvalidInput if prompts are so long that prefill alone would take longer.
    """
    workers = max(1, math.ceil(rate / WORKER_RATE))
    each = rate / workers
    decode_s = SEQS / each - SEQS * prompt_tokens / PREFILL_TOKENS_PER_S
    if decode_s <= 0:
        raise InvalidInput(
            f"Prompts of {prompt_tokens} tokens at {rate:g} requests/s keep the simulated workers busy with prefill "
            f"alone ({PREFILL_TOKENS_PER_S:g} tokens/s each). Lower --prompt-tokens."
        )
    return Fleet(workers, round(workers * (growth - 1)), SEQS, decode_s / (output_tokens + 1), load_s)
