"""What is left when metered tokens are taken from an engine's counters: what explains it, and when it is too much."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

KINDS = ("prompt", "completion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """
    One engine process's window, or a stretch without readings: then *engine_started_ms* is None, the engine's side 0.

    `engine_*` are differences of counters, `probe_*` the part of them that the worker's own readiness requests caused,
    `metered_*` what tenants were billed, *undelivered_tokens* completion tokens that reached a gateway but no client.
    `in_flight_*` is what requests under way at the end had got, less what those under way at the beginning had: nearly,
    as tokens come at an even pace. The other fields are those of ports/work.py's Work.
    """

    worker: str
    pool: str = ""
    engine_started_ms: int | None = None
    from_ms: int
    to_ms: int
    requests: int
    engine_prompt_tokens: int = 0
    engine_completion_tokens: int = 0
    probe_prompt_tokens: int = 0
    probe_completion_tokens: int = 0
    metered_prompt_tokens: int
    metered_completion_tokens: int
    undelivered_tokens: int
    choices_prompt_tokens: int = 0
    in_flight_prompt_tokens: int = 0
    in_flight_completion_tokens: int = 0
    cut_requests: int = 0
    unanswered_requests: int = 0
    retries: int = 0
    carried_prompt_tokens: int = 0
    carried_completion_tokens: int = 0

    @property
    def residue_prompt_tokens(self) -> int:
        return self.engine_prompt_tokens - self.probe_prompt_tokens - self.metered_prompt_tokens

    @property
    def residue_completion_tokens(self) -> int:
        accounted = self.probe_completion_tokens + self.metered_completion_tokens + self.undelivered_tokens
        return self.engine_completion_tokens - accounted

    @property
    def unexplained_prompt_tokens(self) -> int:
        known = self.choices_prompt_tokens + self.carried_prompt_tokens + self.in_flight_prompt_tokens
        return self.residue_prompt_tokens - known

    @property
    def unexplained_completion_tokens(self) -> int:
        return self.residue_completion_tokens - self.carried_completion_tokens - self.in_flight_completion_tokens

    def to_json(self) -> dict[str, Any]:
        """Give the line as plain data, what follows from it included."""
        return {**asdict(self), **{name: getattr(self, name) for name in _DERIVED}}


_DERIVED = tuple(f"{what}_{kind}_tokens" for what in ("residue", "unexplained") for kind in KINDS)
COLUMNS = (*(field.name for field in fields(Line)), *_DERIVED)


@dataclass(frozen=True, slots=True)
class Alarm:
    """More than this unexplained is too much: *ratio* of what the engine made, or so many *tokens*; 0.001 is 0.1 %."""

    ratio: float = 0.001
    tokens: int = 10_000

    def is_due(self, residue: "Residue") -> bool:
        """Tell whether one of the limits is passed."""
        return residue.tokens > self.tokens or residue.ratio > self.ratio


@dataclass(frozen=True, slots=True)
class Residue:
    """All windows of one worker together."""

    worker: str
    lines: Sequence[Line]

    @property
    def engine_tokens(self) -> int:
        """Tokens that the engine made or read for tenants."""
        made = sum(line.engine_prompt_tokens + line.engine_completion_tokens for line in self.lines)
        return made - sum(line.probe_prompt_tokens + line.probe_completion_tokens for line in self.lines)

    @property
    def tokens(self) -> int:
        """Tokens that nothing explains; too few of a kind count like too many."""
        return sum(abs(self._sum(f"unexplained_{kind}_tokens")) for kind in KINDS)

    @property
    def ratio(self) -> float:
        """The unexplained as a part of what the engine made; metered without anything made is infinitely much."""
        return self.tokens / self.engine_tokens if self.engine_tokens > 0 else (float("inf") if self.tokens else 0.0)

    def explain(self) -> str:
        """Say in a sentence or two what is known of the residue."""
        prompt, completion = (self._sum(f"unexplained_{kind}_tokens") for kind in KINDS)
        known = [f"{number:,} {what}" for name, what in _CAUSES.items() if (number := self._sum(name))]
        causes = f" Known beside them: {', '.join(known)}." if known else ""
        verdict = " Less than nothing: more was metered than made." if min(prompt, completion) < 0 else ""
        return (
            f"Of {self.engine_tokens:,} tokens of {self.worker}, {prompt:,} of prompts and {completion:,} of answers "
            f"are explained by nothing.{verdict}{causes}"
        )

    def to_json(self) -> dict[str, Any]:
        """Give it as plain data; a ratio that is infinite is None, since JSON has no such number."""
        ratio = None if self.ratio == float("inf") else self.ratio
        sums = {"engine_tokens": self.engine_tokens, "unexplained_tokens": self.tokens, "unexplained_ratio": ratio}
        return {"worker": self.worker, **sums, "explanation": self.explain()}

    def _sum(self, name: str) -> int:
        return sum(getattr(line, name) for line in self.lines)


_CAUSES = {
    "choices_prompt_tokens": "tokens of prompts counted again for each choice",
    "carried_prompt_tokens": "tokens of prompts read again by workers that went on with a stream",
    "carried_completion_tokens": "tokens of answers made here and billed where they ended, or the other way round",
    "in_flight_prompt_tokens": "tokens of prompts of requests under way at the ends",
    "in_flight_completion_tokens": "tokens of answers under way at the ends",
    "undelivered_tokens": "tokens that reached a gateway after their client had left",
    "cut_requests": "answers cut off (what the engine made after that is not known)",
    "unanswered_requests": "requests that ended without an answer (what the engine did for them is not known)",
    "retries": "tries on other workers before this one (what those did is not known)",
}


def residues(lines: Iterable[Line]) -> list[Residue]:
    """Give each worker's lines together."""
    ordered = sorted(lines, key=lambda line: (line.worker, line.from_ms))
    return [Residue(worker, tuple(group)) for worker, group in groupby(ordered, key=lambda line: line.worker)]
