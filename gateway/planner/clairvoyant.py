"""
What a scheduler that knows the future could do at most: an upper bound on goodput.

A request needs an engine for at least

    output tokens × inter-token time ÷ sequences of a full batch + prompt tokens ÷ prefill rate

seconds: a step lasts one inter-token time plus its prefill, and makes at most one token for each sequence of the batch.
The bound lets this work be cut into pieces of any size, be done by all workers at once and at any time between the
request's arrival and the latest moment at which it could end if its first token came at the last instant of its
client's patience. It serves nobody who leaves. Whatever a real schedule does is allowed here, so no schedule, however
clever, serves more. How much work of a set of requests fits into the time there is, earliest latest end first tells
exactly; these amounts are a polymatroid's ranks, so that taking requests by value per engine second, best first, each
as far as it still fits, is the optimum of the linear program (Edmonds, 1970). Requests are taken in GROUPS of similar
value, each valued as its best, which only raises the bound.
"""

import heapq
import math
from collections.abc import Callable, Sequence

from gateway.planner.engine import Pace
from gateway.planner.load import Request

GROUPS = 50


def engine_s(request: Request, pace: Pace) -> float:
    """Give the least time of one engine that *request* takes."""
    token_s = pace.inter_token_s / pace.max_num_seqs + pace.inter_token_s_per_seq
    return request.output_tokens * token_s + request.prompt_tokens / pace.prefill_tokens_per_s


def bound(
    requests: Sequence[Request],
    pace: Pace,
    workers: int,
    value: Callable[[Request], float],
    until_s: float = math.inf,
) -> float:
    """Give the most *value* that any schedule on *workers* engines could get out of *requests* until *until_s*."""
    ranked = sorted(requests, key=lambda one: value(one) / engine_s(one, pace), reverse=True)
    size = max(1, len(ranked) // GROUPS)
    total = fitted_s = 0.0
    for start in range(0, len(ranked), size):
        best = ranked[start]
        fits_s = work_that_fits(ranked[: start + size], pace, workers, until_s)
        total += value(best) / engine_s(best, pace) * (fits_s - fitted_s)
        fitted_s = fits_s
    return total


def work_that_fits(requests: Sequence[Request], pace: Pace, workers: int, until_s: float = math.inf) -> float:
    """Give the most engine time that can be spent on *requests* within their windows: earliest latest end first."""
    jobs = sorted(requests, key=lambda one: one.at_s)
    open_jobs: list[tuple[float, float]] = []  # (latest end, engine time left)
    done_s = 0.0
    for place, job in enumerate(jobs):
        heapq.heappush(open_jobs, (_latest_end_s(job, pace), engine_s(job, pace)))
        next_s = jobs[place + 1].at_s if place + 1 < len(jobs) else math.inf
        done_s += _work_off(open_jobs, job.at_s, min(next_s, until_s), workers)
    return done_s


def _work_off(open_jobs: list[tuple[float, float]], now_s: float, until_s: float, workers: int) -> float:
    """Spend the time from *now_s* until *until_s* of all *workers* on *open_jobs*; give how much of it was used."""
    done_s = 0.0
    while open_jobs and now_s < until_s:
        latest_end_s, left_s = heapq.heappop(open_jobs)
        spent_s = min(left_s, workers * (min(until_s, latest_end_s) - now_s))
        if spent_s <= 0:  # its window is over
            continue
        done_s += spent_s
        now_s += spent_s / workers
        if spent_s < left_s and latest_end_s > until_s:
            heapq.heappush(open_jobs, (latest_end_s, left_s - spent_s))
            break
    return done_s


def _latest_end_s(request: Request, pace: Pace) -> float:
    """Give when a request ends whose first token came as patience ended, and all of whose steps were the longest."""
    prefill_s = pace.max_batched_tokens / pace.prefill_tokens_per_s
    step_s = pace.inter_token_s + pace.inter_token_s_per_seq * pace.max_num_seqs + prefill_s
    return request.at_s + request.patience_s + request.output_tokens * step_s
