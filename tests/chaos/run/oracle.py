"""
What the Journal must hold, by the rules of docs/finance.md, derived from engines' journals and clients' records alone.

| event | must equal, to the nano |
|---|---|
| `exact` | what an engine computed in full, and what the client was told and read, if it finished |
| `delivered` | what came out of the client's connection; of a connection dropped on both sides, not less, and not more than the engine wrote |
| `interrupted`, or open when its gateway died | at most what came to the client; what is missing is told apart, not hidden |
| `none` | nothing |

A request is *lost* if a client saw some of an answer to it and the Journal knows nothing; *doubled* if more is billed
than an engine made.
"""  # noqa: E501  a table

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gateway.core.prices import PriceBook
from gateway.core.rating import rated
from gateway.core.usage import MeterEvent
from tests.chaos.run.evidence import Case, Computed, Seen

OFFENDERS_SHOWN = 20
CUT_OFF = {"dropped", "late", "cut"}  # the client cannot know all that was handed to its connection


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with one request, nothing if *why* is empty; *due* is the event that the Journal should hold."""

    why: str = ""
    is_lost: bool = False
    is_doubled: bool = False
    due: MeterEvent | None = None
    unbilled_tokens: int = 0


@dataclass(slots=True)
class Books:
    """The whole run's judgement."""

    events: int = 0
    lost: int = 0
    doubled: int = 0
    amount_difference_nano: int = 0
    amount_nano: int = 0
    interrupted: int = 0
    interrupted_unbilled_tokens: int = 0
    interrupted_unbilled_tokens_max: int = 0
    computed_for_nobody: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    offenders: list[str] = field(default_factory=list)

    @property
    def are_true(self) -> bool:
        return not (self.lost or self.doubled or self.amount_difference_nano or self.offenders)


def audit(cases: Iterable[Case], book: PriceBook) -> Books:
    """Judge every case."""
    books = Books()
    for case in cases:
        verdict = judge(case)
        _count(books, case, verdict)
        misrated = _check_rating(books, case, verdict, book)
        why = verdict.why or misrated
        if why and len(books.offenders) < OFFENDERS_SHOWN:
            books.offenders.append(f"{case.id}: {why}: {_shown(case)}")
    return books


def _count(books: Books, case: Case, verdict: Verdict) -> None:
    books.lost += verdict.is_lost
    books.doubled += verdict.is_doubled
    books.interrupted_unbilled_tokens += verdict.unbilled_tokens
    books.interrupted_unbilled_tokens_max = max(books.interrupted_unbilled_tokens_max, verdict.unbilled_tokens)
    if case.event is None:
        books.computed_for_nobody += bool(case.computed) and not verdict.is_lost
    else:
        books.events += 1
        books.interrupted += case.event.outcome == "interrupted"
        books.flags[case.event.flag] += 1


def _check_rating(books: Books, case: Case, verdict: Verdict, book: PriceBook) -> str:
    """Compare amounts; by the price that was in force when the request arrived, whatever the event names."""
    event = case.event
    if event is None or not (event.prompt_tokens or verdict.due):
        return ""
    in_force = book.find(event.tenant, event.model, event.pool, event.arrived_ms)
    due = rated(verdict.due or event, in_force).cost_nano or 0
    billed = rated(event, book.by_id.get(event.price)).cost_nano or 0
    books.amount_nano += billed
    books.amount_difference_nano += abs(billed - due)
    if in_force is None or event.price != in_force.id:
        return f"its price is {event.price!r}, in force was {in_force and in_force.id!r}"
    if case.cost_nano != billed:
        return f"the Journal says it costs {case.cost_nano}, its price says {billed}"
    return ""


def _shown(case: Case) -> str:
    event = case.event
    names = (
        "outcome",
        "flag",
        "is_stream",
        "attempts",
        "gateway",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
    )
    billed = {name: getattr(event, name) for name in names} if event else None
    return f"event {billed}, client {case.seen}, engines {case.computed}"


def judge(case: Case) -> Verdict:
    """Hold one request's event against what is known of it."""
    event, seen = case.event, case.seen
    if event is None:
        return _judge_missing(seen)
    if wrong := _overcharge(case, event):
        return Verdict(wrong, is_doubled=True, due=_due(event, 0, 0, 0))
    if event.flag == "exact":
        return _judge_exact(event, case.computed, seen)
    if event.outcome == "interrupted":
        return _judge_interrupted(event, case.computed, seen)
    return _judge_delivered(event, case.computed, seen)


def _overcharge(case: Case, event: MeterEvent) -> str:
    """Say what is billed that nobody can owe, whatever the client saw."""
    if case.events > 1:
        return f"it has {case.events} events"
    if case.seen is not None and case.seen.tenant != event.tenant:
        return f"{case.seen.tenant} asked, {event.tenant} pays"
    if event.completion_tokens > max((each.completion for each in case.computed), default=0):
        return "more is billed than an engine made"
    return ""


def _judge_missing(seen: Seen | None) -> Verdict:
    """Judge a request of which the Journal knows nothing: right only if nobody saw anything of an answer."""
    is_lost = seen is not None and (seen.has_begun or seen.why == "finished")
    return Verdict("it has no event", is_lost=True) if is_lost else Verdict()


def _judge_exact(event: MeterEvent, computed: list[Computed], seen: Seen | None) -> Verdict:
    if not any(each.outcome == "done" and _usage(each) == _billed(event) for each in computed):
        return Verdict("no engine computed just that", due=_whole(event, computed))
    if seen is not None and seen.why == "finished" and seen.words != event.completion_tokens:
        return Verdict("its client got another number of tokens", due=_due(event, 0, 0, seen.words))
    if seen is not None and seen.told and seen.told != _billed(event):
        return Verdict("its client was told another usage", due=_due(event, *seen.told))
    return Verdict()


def _judge_delivered(event: MeterEvent, computed: list[Computed], seen: Seen | None) -> Verdict:
    """Judge an answer that ended early: by what its client got, as far as that can be known."""
    is_sure = seen is not None and seen.why not in CUT_OFF
    words = seen.words if seen is not None else 0
    source = _source(event, computed)
    if is_sure or event.flag == "none":
        has_begun = seen is not None and seen.has_begun and (is_sure or event.flag != "none")
        due = _due(event, source.prompt, source.cached, words) if has_begun else _due(event, 0, 0, 0)
        return Verdict("" if _billed(due) == _billed(event) else "delivered was something else", due=due)
    if not words <= event.completion_tokens <= source.written or event.prompt_tokens != source.prompt:
        return Verdict(
            "less than came to the client, or more than was sent", due=_due(event, source.prompt, source.cached, words)
        )
    return Verdict()


def _judge_interrupted(event: MeterEvent, computed: list[Computed], seen: Seen | None) -> Verdict:
    """Judge an answer whose gateway died: never more than was delivered."""
    if seen is not None and seen.why == "finished":
        return Verdict("its client has it all", due=_whole(event, computed))
    source = _source(event, computed)
    delivered = (source.prompt, source.cached, seen.words) if seen and seen.has_begun else (0, 0, 0)
    if seen is not None and seen.why == "dropped":
        delivered = (source.prompt, source.cached, source.written)
    due = _due(event, *delivered)
    if event.completion_tokens > delivered[2] or event.prompt_tokens > delivered[0]:
        return Verdict("more is billed than came to the client", due=due)
    if seen is None or not seen.has_begun:
        return Verdict()
    return Verdict(unbilled_tokens=source.prompt + seen.words - event.prompt_tokens - event.completion_tokens)


def _source(event: MeterEvent, computed: list[Computed]) -> Computed:
    """Find the engine's answer that went to the client: of several tries, the one whose figures the event has."""
    ranked = sorted(computed, key=lambda each: (each.cached == event.cached_tokens, each.written))
    return ranked[-1] if ranked else Computed("", 0, 0, 0, 0)


def _usage(each: Computed) -> tuple[int, int, int]:
    return each.prompt, each.cached, each.completion


def _billed(event: MeterEvent) -> tuple[int, int, int]:
    return event.prompt_tokens, event.cached_tokens, event.completion_tokens


def _whole(event: MeterEvent, computed: list[Computed]) -> MeterEvent:
    done = [each for each in computed if each.outcome == "done"] or [Computed("", 0, 0, 0, 0)]
    return _due(event, *_usage(done[-1]))


def _due(event: MeterEvent, prompt: int, cached: int, completion: int) -> MeterEvent:
    return replace(event, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
