"""How long an answer will be: learnt for each tenant and model from the answers that ended."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from math import exp

from gateway.core.request import COMPLETION_TOKENS_GUESS, ChatRequest
from gateway.core.usage import Usage

# Of a newcomer's first answers none may lead far astray: what is guessed counts as much as so many of them.
GUESS_COUNTS = 4
# The last 20 answers make two thirds of a mean, so that a new use of a model is learnt within some dozens.
MEAN_GAIN_MIN = 0.05
HIGH_QUANTILE = 0.9
HIGH_GAIN_MIN = 0.06  # upwards 5 % an answer: from 50 to 600 tokens in as many
HIGH_GAIN = 3.0  # above 1 ÷ (2 × density at the quantile), which is 2.9 for a log-normal with σ = 1: then it converges


@dataclass(slots=True)
class _Answers:
    """
    The answers of one tenant and model so far: their mean, their 90th percentile, the share of the prompt in cache.

    The mean is an EWMA. The percentile is found by stochastic approximation (Robbins and Monro, 1951; for quantiles
    Tierney, "A space-efficient recursive procedure for estimating a quantile of an unknown distribution", 1983) on the
    logarithm: one number of state, steps in proportion to its size, and it follows what changes.
    """

    mean: float = COMPLETION_TOKENS_GUESS
    high: float = 2 * COMPLETION_TOKENS_GUESS
    cached_share: float = 0.0
    seen: int = 0

    def learn(self, tokens: float, cached_share: float) -> None:
        self.seen += 1
        gain = max(1 / (self.seen + GUESS_COUNTS), MEAN_GAIN_MIN)
        self.mean += gain * (tokens - self.mean)
        self.cached_share += gain * (cached_share - self.cached_share)
        gain = max(HIGH_GAIN / (self.seen + GUESS_COUNTS), HIGH_GAIN_MIN)
        self.high *= exp(gain * (HIGH_QUANTILE - (tokens <= self.high)))


class Predictor:
    """What answers cost, by tenant and model; of the *kept_max* pairs that were last heard of."""

    def __init__(self, kept_max: int = 20_000) -> None:
        self._kept_max = kept_max
        self._answers: OrderedDict[tuple[str, str], _Answers] = OrderedDict()

    def foresee(self, tenant: str, request: ChatRequest) -> ChatRequest:
        """
        Give *request* with what its answer is expected to take.

        That is the mean of its kind, but no more than nine in ten take: a few answers of extreme length would lift the
        mean for a long time.
        """
        known = self._answers.get((tenant, request.model))
        if known is None:
            return request
        return replace(
            request, answer_tokens=max(1, round(min(known.mean, known.high))), cached_share=known.cached_share
        )

    def learn(self, tenant: str, request: ChatRequest, usage: Usage) -> None:
        """Take what a request came to; one that brought nothing teaches nothing."""
        if not usage.completion:
            return
        key = tenant, request.model
        known = self._answers.get(key)
        if known is None:
            known = self._answers[key] = _Answers()
            if len(self._answers) > self._kept_max:
                self._answers.popitem(last=False)
        self._answers.move_to_end(key)
        known.learn(usage.completion / request.n, usage.cached / usage.prompt if usage.prompt else 0.0)

    def __repr__(self) -> str:
        return f"<Predictor [{len(self._answers)} kinds of answers]>"
