"""
Who comes when, asking for what: drawn from a seed, so that a drill can be repeated.

Arrivals are uniform over the window, which is a Poisson stream given its count. Lengths of prompts and answers are
log-normal around their means; with SIGMA = 0.6 the longest tenth of the answers is over twice the median, as in the
public traces of chat services. Patience is log-normal around its median, too.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

LENGTH_SIGMA = 0.6
PATIENCE_SIGMA = 1.0
LENGTH_MAX = 8  # times the mean: what lies above is cut
# Who hangs up does so after its place in line was told, which takes a gateway up to 3 s.
HANGUP_S = (4.0, 12.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """
    A burst: *users* arrive within *over_s*, *spike* times the base rate that the *calm_s* before it show.

    *classes* are shares that add up to 1; *hangups* is the share of users that leave while they wait. The first tenant
    asks for *flood* times as much as each other one.
    """

    users: int
    over_s: float
    spike: float
    calm_s: float
    tenants: int
    classes: Mapping[str, float]
    prompt_tokens: int
    output_tokens: int
    flood: float = 1.0
    hangups: float = 0.0
    patience_s: float | None = None
    seed: int = 1

    @property
    def base_rate(self) -> float:
        """Requests per second before the burst."""
        return self.users / self.over_s / self.spike


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One client's request. *at_s* counts from the burst's beginning: below 0 lies the calm before it."""

    number: int
    at_s: float
    tenant: int
    service_class: str
    prompt_tokens: int
    output_tokens: int
    patience_s: float = math.inf
    hangs_up_s: float = math.inf

    @property
    def is_burst(self) -> bool:
        return self.at_s >= 0


def draw(scenario: Scenario) -> list[Visit]:
    """Draw every visit, in order of arrival; the same scenario gives the same visits on every machine."""
    dice = random.Random(scenario.seed)  # noqa: S311  a drill is to be repeated, not to be secret
    calm = round(scenario.base_rate * scenario.calm_s)
    times = sorted(-dice.uniform(0, scenario.calm_s) for _ in range(calm))
    times += sorted(dice.uniform(0, scenario.over_s) for _ in range(scenario.users))
    return [_visit(number, at_s, scenario, dice) for number, at_s in enumerate(times)]


def _visit(number: int, at_s: float, scenario: Scenario, dice: random.Random) -> Visit:
    patience_s = hangs_up_s = math.inf
    [service_class] = dice.choices(list(scenario.classes), list(scenario.classes.values()))
    [tenant] = dice.choices(range(scenario.tenants), [scenario.flood] + [1.0] * (scenario.tenants - 1))
    prompt, output = _length(scenario.prompt_tokens, dice), _length(scenario.output_tokens, dice)
    if scenario.patience_s is not None:
        patience_s = dice.lognormvariate(math.log(scenario.patience_s), PATIENCE_SIGMA)
    if dice.random() < scenario.hangups:
        hangs_up_s = dice.uniform(*HANGUP_S)
    is_burst = at_s >= 0
    return Visit(
        number=number,
        at_s=at_s,
        tenant=tenant,
        service_class=service_class,
        prompt_tokens=prompt,
        output_tokens=output,
        patience_s=patience_s if is_burst else math.inf,
        hangs_up_s=hangs_up_s if is_burst else math.inf,
    )


def _length(mean: int, dice: random.Random) -> int:
    median = math.log(mean) - LENGTH_SIGMA**2 / 2  # so that the mean is *mean*
    return max(1, min(round(dice.lognormvariate(median, LENGTH_SIGMA)), LENGTH_MAX * mean))
