"""
A pool in virtual time: clients come, wait, are served, hang up; workers start and stop. No wall time anywhere.

Events lie in a heap; equal times keep the order in which they were planned. All chance comes from the seed, so the same
requests and the same plan replay exactly, whatever the machine.
"""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from gateway.core.credit import PREFILL_STEPS
from gateway.core.eta import LOOK_S
from gateway.core.scheduling import LineBounds, Ticket
from gateway.planner.engine import Pace
from gateway.planner.engine import Sequence as Answer
from gateway.planner.fleet import Fleet, Size, Worker
from gateway.planner.foresight import Foresight
from gateway.planner.load import Request
from gateway.planner.queue import Entry, Spent, VirtualQueue
from gateway.planner.routes import Routes, View
from gateway.planner.scalers import Pool, make_scaler
from gateway.planner.stories import Ending, Story

# A longer line is looked at less often: at this many tickets a second, as a gateway would that gives it 5 % of a core.
LOOKED_AT_PER_S = 4000
PROGRESS_EVENTS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    What is simulated: workers, their engines, the bounds of the line.

    *policy* names a way of choosing workers (planner/routes.py) at each of so many *gateways*, which send what has a
    slot at once; without one, requests meet the least loaded worker that has credit, late. *cache_tokens* is the size
    of a worker's prefix cache.

    *scale* names what starts and stops workers (planner/scalers.py); without one it is a worker for so many requests.

    *hop_s* is how long it takes from a slot's coming free until the next request has reached the engine;
    *credit_wait_s* how long a request with a slot waits for a worker with credit before it takes one without.
    """

    size: Size
    pace: Pace = field(default_factory=Pace)
    bounds: LineBounds = field(default_factory=LineBounds)
    hop_s: float = 0.002
    credit_wait_s: float = 2.0
    seed: int = 1
    scale: str | None = None
    policy: str | None = None
    gateways: int = 1
    cache_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """The pool at one moment; *workers* are those that are paid for."""

    at_s: float
    waiting: int
    in_flight: int
    slots: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What happened: a story per request, samples over time, and how engines spent theirs, in seconds."""

    stories: Sequence[Story]
    samples: Sequence[Sample]
    ended_s: float
    engine_busy_s: float
    engine_wasted_s: float
    engine_paid_s: float


@dataclass(slots=True, eq=False)
class _InFlight:
    """A request that has its slot: where it is, once it has been sent."""

    story: Story
    answer: Answer
    worker: Worker | None = None
    view: View | None = None
    prefill_tokens: int = 0  # that its gateway expects to be computed
    has_reached: bool = False


class Simulation:
    """One run over *requests*, which come in order of arrival. *progress* is told the part that is done, 0 to 1."""

    def __init__(
        self, requests: Sequence[Request], plan: Plan, progress: Callable[[float], None] = lambda _: None
    ) -> None:
        self._plan = plan
        self._progress = progress
        self._now_s = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._requests = requests
        self._stories: dict[str, Story] = {}
        self._open = len(requests)
        self._enough: Callable[[Story], bool] = lambda _: False
        self._is_enough = False
        self._foresight = Foresight()
        self._fleet = Fleet(plan.size, plan.pace, self._dice("fleet"), plan.cache_tokens)
        self._routes = self._make_routes() if plan.policy else None
        self._scaler = make_scaler(plan.scale, plan.size, plan.pace, requests)
        self._queue = VirtualQueue(plan.bounds)
        self._in_flight: dict[str, _InFlight] = {}
        self._unsent: dict[str, _InFlight] = {}  # granted, but no worker has credit for the prompt yet
        self._owners: dict[Answer, _InFlight] = {}
        self._samples: list[Sample] = []

    def __repr__(self) -> str:
        return f"<Simulation [{self._open} open at {self._now_s:.1f} s, {self._queue!r}, {self._fleet!r}]>"

    def run(self, enough: Callable[[Story], bool] = lambda _: False) -> Course:
        """Run until every request has ended, or until *enough* says so of a request that has."""
        self._enough = enough
        for request in self._requests:
            self._plan_event(request.at_s, self._arrive, request)
        self._resize()
        self._look(None)
        while self._open and not self._is_enough:
            self._now_s, number, act, of = heapq.heappop(self._events)
            act(of)
            if number % PROGRESS_EVENTS == 0:
                self._progress(1 - self._open / len(self._requests))
        return self._course()

    def _make_routes(self) -> Routes:
        plan = self._plan
        assert plan.policy, "without a policy there are no routes"
        room = PREFILL_STEPS * plan.pace.max_batched_tokens
        dice = self._dice("routes")
        return Routes(plan.policy, plan.gateways, dice, prefill_tokens_max=room, wait_s_max=plan.credit_wait_s)

    # Clients.

    def _arrive(self, request: Request) -> None:
        ticket_id = str(len(self._stories))
        story = self._stories[ticket_id] = Story(request, self._foresight.ticket(ticket_id, request))
        self._scaler.arrive(self._now_s, story.ticket.work)
        entry = self._queue.enter(story.ticket, self._now_s)
        story.expected_s = 0.0 if entry is Entry.GRANTED else self._expected_s(story.ticket)
        if entry is Entry.REFUSED:
            self._end(story, Ending.REFUSED)
            return
        if story.request.patience_s < math.inf:
            self._plan_event(self._now_s + story.request.patience_s, self._lose_patience, story)
        if entry is Entry.GRANTED:
            self._grant(story)
            self._send()

    def _lose_patience(self, story: Story) -> None:
        if story.first_s is not None or story.ended_s is not None:
            return
        if flight := self._in_flight.get(story.ticket.id):
            self._cut_off(flight)
        self._end(story, Ending.HUNG_UP)
        self._free(story)

    # Slots and workers.

    def _grant(self, story: Story) -> None:
        story.granted_s = self._now_s
        answer = Answer(story.request.prompt_tokens, story.request.output_tokens)
        flight = self._in_flight[story.ticket.id] = self._unsent[story.ticket.id] = _InFlight(story, answer)
        if self._routes:
            flight.view = self._routes.enter(story.ticket.id, story.request, self._now_s)

    def _send(self) -> None:
        """Give requests that have their slot to workers that have credit; called after every change."""
        if self._routes:
            for ticket, worker, prefill_tokens in self._routes.decide(self._now_s) if self._unsent else ():
                flight = self._unsent[ticket]
                flight.prefill_tokens = prefill_tokens
                self._send_to(worker, flight)
            return
        while self._unsent:
            flight = next(iter(self._unsent.values()))
            is_impatient = self._now_s >= _granted_s(flight) + self._plan.credit_wait_s
            chosen = self._fleet.choose(flight.answer.prompt_tokens, needs_credit=not is_impatient)
            if chosen is None:
                return
            self._send_to(chosen, flight)

    def _send_to(self, worker: Worker, flight: _InFlight) -> None:
        del self._unsent[flight.story.ticket.id]
        flight.worker, flight.story.sent_s = worker, self._now_s
        self._owners[flight.answer] = flight
        if flight.view:
            flight.view.sent(worker, flight.story.request, flight.prefill_tokens)
        self._look_up(worker, flight)
        worker.in_flight += 1
        worker.work += flight.story.ticket.work
        worker.prefill_tokens += flight.answer.prompt_tokens
        self._plan_event(self._now_s + self._plan.hop_s, self._reach, flight)

    def _look_up(self, worker: Worker, flight: _InFlight) -> None:
        """Find what the worker's cache has of the prompt; the last token is always computed."""
        request = flight.story.request
        flight.story.cached_tokens = min(worker.cache.held_tokens(request.blocks), request.prompt_tokens - 1)
        flight.answer.prompt_tokens -= flight.story.cached_tokens

    def _reach(self, flight: _InFlight) -> None:
        if flight.story.ended_s is None:
            assert flight.worker, "only what was sent arrives"
            flight.has_reached = True
            flight.worker.engine.add(flight.answer, self._now_s)
            self._plan_stretch(flight.worker)

    def _plan_stretch(self, worker: Worker) -> None:
        worker.version += 1
        if worker.engine.ends_s is not None:
            self._plan_event(worker.engine.ends_s, self._end_stretch, (worker, worker.version))

    def _end_stretch(self, of: tuple[Worker, int]) -> None:
        worker, version = of
        if version != worker.version:
            return
        happened = worker.engine.end_stretch()
        for answer in happened.first:
            flight = self._owners[answer]
            flight.story.first_s = self._now_s
            worker.prefill_tokens -= answer.prompt_tokens
            worker.cache.put(flight.story.request.blocks)
            if flight.view:
                flight.view.prefilled(worker, flight.prefill_tokens)
        for answer in happened.ended:
            story = self._owners[answer].story
            self._detach(self._in_flight[story.ticket.id])
            self._end(story, Ending.SERVED)
            self._foresight.learn(story.request)
            self._scaler.serve(self._now_s, story.request.work)
            self._free(story)
        self._plan_stretch(worker)
        self._send()

    def _cut_off(self, flight: _InFlight) -> None:
        """End the work on a request whose client left before the first token; what was done for it is wasted."""
        self._unsent.pop(flight.story.ticket.id, None)
        if flight.worker is None:
            if flight.view:
                del flight.view.line[flight.story.ticket.id]
            return
        if flight.has_reached:
            flight.worker.engine.abort(flight.answer)
        flight.worker.prefill_tokens -= flight.answer.prompt_tokens
        if flight.view:
            flight.view.prefilled(flight.worker, flight.prefill_tokens)
        self._detach(flight)

    def _detach(self, flight: _InFlight) -> None:
        assert flight.worker, "only what was sent can be taken back"
        flight.worker.in_flight -= 1
        if flight.view:
            flight.view.ended(flight.worker, flight.story.request)
        flight.worker.work -= flight.story.ticket.work
        del self._owners[flight.answer]

    def _free(self, story: Story) -> None:
        self._queue.leave(story.ticket, self._now_s)
        self._in_flight.pop(story.ticket.id, None)
        self._admit()

    def _admit(self) -> None:
        for ticket in self._queue.grants(self._spent_by):
            self._grant(self._stories[ticket.id])
        self._send()

    # The pool once a second, and when a worker is ready.

    def _look(self, _: None) -> None:
        for ticket in self._queue.look(self._now_s):
            self._end(self._stories[ticket.id], Ending.REFUSED)
        for ready_s in self._fleet.follow(self._now_s, self._scaler.wanted(self._now_s, self._pool())):
            self._plan_event(ready_s, self._resize, None)
        self._resize()
        queue = self._queue
        self._samples.append(Sample(self._now_s, queue.waiting, queue.in_flight, queue.slots, self._fleet.paid))
        pause_s = max(LOOK_S, queue.waiting / LOOKED_AT_PER_S)
        self._plan_event(self._now_s + pause_s, self._look, None)

    def _pool(self) -> Pool:
        queue = self._queue
        workers, backlog_tokens = self._fleet.staying, queue.backlog_tokens
        return Pool(waiting=queue.waiting, in_flight=queue.in_flight, backlog_tokens=backlog_tokens, workers=workers)

    def _resize(self, _: None = None) -> None:
        self._fleet.refresh(self._now_s)
        if self._routes:
            self._routes.see(self._fleet.taking, self._plan.pace.max_num_seqs)
        self._queue.expect(self._fleet.slots, self._fleet.coming(self._now_s))
        self._admit()

    # Accounts.

    def _expected_s(self, ticket: Ticket) -> float | None:
        return self._queue.forecast.newcomer(ticket, self._now_s).eta_s

    def _spent_by(self, ticket: Ticket) -> Spent:
        request = self._stories[ticket.id].request
        return Spent(lambda now_s: self._spent(ticket.id, now_s), request.work)

    def _spent(self, ticket_id: str, now_s: float) -> int:
        """Tell the work done for a request so far: its prompt once it has been sent, twice the tokens it made."""
        flight = self._in_flight[ticket_id]
        if flight.worker is None:
            return 0
        return flight.story.request.prompt_tokens + 2 * flight.worker.engine.generated(flight.answer, now_s)

    def _end(self, story: Story, ending: Ending) -> None:
        story.ending, story.ended_s = ending, self._now_s
        self._open -= 1
        self._is_enough = self._is_enough or self._enough(story)

    def _dice(self, of: str) -> random.Random:
        return random.Random(f"{of} {self._plan.seed}")  # noqa: S311  a plan is to be repeated, not to be secret

    def _plan_event(self, at_s: float, act: Callable[[Any], None], of: object) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), act, of))

    def _course(self) -> Course:
        return Course(
            stories=list(self._stories.values()),
            samples=self._samples,
            ended_s=self._now_s,
            engine_busy_s=self._fleet.busy_s,
            engine_wasted_s=self._fleet.wasted_tokens / self._plan.pace.prefill_tokens_per_s,
            engine_paid_s=self._fleet.paid_s(self._now_s),
        )


def _granted_s(flight: _InFlight) -> float:
    assert flight.story.granted_s is not None, "who is in flight was granted a slot"
    return flight.story.granted_s
