"""Faults of the simulated engine: scripted at its start, switched at run time by POST /sim/faults."""

import random
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FOR_EVER = -1
CrashKind = Literal["drop", "silence", "error"]


class Faults(BaseModel):
    """
    What goes wrong, and for how many generation requests: -1 means for every one from now on, 0 for none.

    A request meets one fault at most, in the order hang, error, crash.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    hang_next: int = Field(0, ge=FOR_EVER, description="Requests that are accepted and never answered.")
    error_next: int = Field(0, ge=FOR_EVER, description="Requests answered with error_status.")
    error_probability: float = Field(0.0, ge=0, le=1, description="Chance that a request is answered so.")
    error_status: int = Field(500, ge=500, le=599)
    crash_next: int = Field(0, ge=FOR_EVER, description="Requests whose connection breaks off in mid-answer.")
    crash_after_tokens: int = Field(1, ge=0, description="Tokens sent before that.")
    crash_exits: bool = Field(False, description="The whole process dies instead of one connection.")
    crash_how: CrashKind = Field("drop", description="Or it falls silent, or a stream tells an error, as vLLM does.")
    slow_start_s: float = Field(0.0, ge=0, description="For so long from now, /health and generation answer 503.")
    is_stalled: bool = Field(False, description="The engine accepts and holds requests but makes no token.")


class FaultPlan:
    """The faults in force. Draws are deterministic for a given *seed*."""

    def __init__(self, faults: Faults, seed: int, now_s: float) -> None:
        self.faults = faults
        self._random = random.Random(seed)  # noqa: S311 (a die, not a secret)
        self._started_at_s = now_s + faults.slow_start_s

    def switch(self, changes: dict[str, Any], now_s: float) -> None:
        """Put the named faults in force, leaving the others; raises pydantic's ValidationError for an unknown one."""
        self.faults = Faults.model_validate({**self.faults.model_dump(), **changes})
        if "slow_start_s" in changes:
            self._started_at_s = now_s + self.faults.slow_start_s

    def is_starting(self, now_s: float) -> bool:
        """Tell whether the engine still pretends to load its model."""
        return now_s < self._started_at_s

    def hangs(self) -> bool:
        """Draw whether a request is never answered."""
        return self._use("hang_next")

    def fails(self) -> bool:
        """Draw whether a request is answered with an error status."""
        chance = self.faults.error_probability
        return self._use("error_next") or bool(chance and self._random.random() < chance)

    def crash_after(self) -> int | None:
        """Draw after how many tokens a request's connection breaks off; None if it does not."""
        return self.faults.crash_after_tokens if self._use("crash_next") else None

    def _use(self, name: str) -> bool:
        left: int = getattr(self.faults, name)
        if left > 0:
            setattr(self.faults, name, left - 1)
        return left != 0
