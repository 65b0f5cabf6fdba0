"""What a plan found: figures as JSON, and a picture of them is picture.py's."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gateway.planner.clairvoyant import engine_s
from gateway.planner.quantities import Goal
from gateway.planner.simulation import Course, Plan
from gateway.planner.stories import Ending, Story

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """
    The figures of a course. *workers_needed* is None if no number of workers that was tried meets the goal.

    *spike_s* is when a spike begins, if there is one.
    """

    course: Course
    plan: Plan
    goal: Goal
    workers_needed: int | None
    spike_s: float | None = None

    def to_json(self) -> Figures:
        """Give all figures, under names that stay."""
        stories = self.course.stories
        return {
            "requests": len(stories),
            **{ending.value: sum(story.ending is ending for story in stories) for ending in Ending},
            "wait_s": spread(_present(story.wait_s for story in stories)),
            "ttft_s": spread(_present(story.ttft_s for story in stories)),
            "eta_error_mean": eta_error_mean(stories),
            "goodput_requests_per_s": _round(sum(map(_is_served, stories)) / self.course.ended_s),
            "goodput_output_tokens_per_s": _round(_output_tokens(stories) / self.course.ended_s),
            "cached_share": _round(self._cached_share(), 4),
            "engine_wasted_share": _round(self.course.engine_wasted_s / max(self.course.engine_busy_s, 1e-9), 5),
            "slots_used_share": _round(self._slots_used_share()),
            "worker_hours": _round(self.course.engine_paid_s / 3600),
            "worker_seconds": _round(self.course.engine_paid_s, 0),
            "over_provisioned_share": _round(self._over_provisioned_share()),
            "drained_after_s": self._drained_after_s(),
            "waiting_max": max(sample.waiting for sample in self.course.samples),
            "by_class": _by(stories, lambda story: story.request.service_class.label),
            "by_tenant": _by(stories, lambda story: story.request.tenant),
            "length_s": _round(self.course.ended_s),
            "workers": self.plan.size.workers,
            "workers_most": max(sample.slots for sample in self.course.samples) // self.plan.pace.max_num_seqs,
            "goal": str(self.goal),
            "goal_met": meets(stories, self.goal),
            "workers_needed": self.workers_needed,
            "seed": self.plan.seed,
        }

    def _cached_share(self) -> float:
        """Give the part of all prompts sent to engines that was in their prefix caches."""
        sent = [story for story in self.course.stories if story.sent_s is not None]
        return sum(story.cached_tokens for story in sent) / max(1, sum(story.request.prompt_tokens for story in sent))

    def _over_provisioned_share(self) -> float:
        """
        Give the part of all worker time in which ready workers were more than the work took.

        That is what was ready, less the least engine time of what was served (clairvoyant.engine_s); a worker that
        starts is paid for, but nobody could have had it sooner.
        """
        pace, samples = self.plan.pace, self.course.samples
        spans = [(one, later.at_s - one.at_s) for one, later in pairwise(samples)]
        ready_s = sum(one.slots / pace.max_num_seqs * span_s for one, span_s in spans)
        paid_s = sum(one.workers * span_s for one, span_s in spans)
        needed_s = sum(engine_s(story.request, pace) for story in self.course.stories if _is_served(story))
        return max(0.0, ready_s - needed_s) / paid_s if paid_s else 0.0

    def _drained_after_s(self) -> float | None:
        """Give how long after the spike's beginning the line that it made was empty; None if it made none or never."""
        if self.spike_s is None:
            return None
        after = [one for one in self.course.samples if one.at_s >= self.spike_s]
        began_s = next((one.at_s for one in after if one.waiting), math.inf)
        return next((_round(one.at_s - self.spike_s) for one in after if one.at_s > began_s and not one.waiting), None)

    def _slots_used_share(self) -> float:
        slots = sum(sample.slots for sample in self.course.samples)
        return sum(sample.in_flight for sample in self.course.samples) / slots if slots else 0.0


def spread(values: Iterable[float]) -> Figures:
    """Give mean, percentiles and maximum; None for each of no values."""
    ordered = sorted(values)
    names = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    if not ordered:
        return dict.fromkeys(("mean", *names, "max"))
    quantiles = {name: _round(percentile(ordered, quantile)) for name, quantile in names.items()}
    return {"mean": _round(sum(ordered) / len(ordered)), **quantiles, "max": _round(ordered[-1])}


def percentile(ordered: Sequence[float], quantile: float) -> float:
    """Give the smallest of the *ordered* values that so large a part of them does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)]


def meets(stories: Sequence[Story], goal: Goal) -> bool:
    """Tell whether *goal* is met, over everyone: who was refused or hung up has waited longer than any limit."""
    values = sorted(goal_value(story, goal) for story in stories)
    reached = sum(values) / len(values) if goal.quantile is None else percentile(values, goal.quantile)
    return reached < goal.limit_s


def goal_value(story: Story, goal: Goal) -> float:
    """Give the figure of *story* that *goal* is about."""
    value = story.wait_s if goal.figure == "wait" else story.ttft_s
    return math.inf if value is None or story.ending is not Ending.SERVED else value


def eta_error_mean(stories: Sequence[Story]) -> float | None:
    """Give by how much the waits that people were told when they came were wrong on average, over the mean wait."""
    told = [(story.expected_s, story.wait_s) for story in stories if story.wait_s and story.expected_s is not None]
    waits_s = sum(wait_s for _, wait_s in told)
    return _round(sum(abs(expected_s - wait_s) for expected_s, wait_s in told) / waits_s) if told else None


def _by(stories: Sequence[Story], name_of: Callable[[Story], str]) -> dict[str, Figures]:
    groups: dict[str, list[Story]] = {}
    for story in stories:
        groups.setdefault(name_of(story), []).append(story)
    return {name: _group(groups[name]) for name in sorted(groups)}


def _group(stories: Sequence[Story]) -> Figures:
    return {
        "requests": len(stories),
        **{ending.value: sum(story.ending is ending for story in stories) for ending in Ending},
        "output_tokens": _output_tokens(stories),
        "wait_s": spread(_present(story.wait_s for story in stories)),
        "ttft_s": spread(_present(story.ttft_s for story in stories)),
    }


def _is_served(story: Story) -> bool:
    return story.ending is Ending.SERVED


def _output_tokens(stories: Sequence[Story]) -> int:
    return sum(story.request.output_tokens for story in stories if _is_served(story))


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _round(value: float, digits: int = 3) -> float:
    return round(value, digits)
