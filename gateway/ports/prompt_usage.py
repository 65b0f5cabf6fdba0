"""The Journal by length of prompt: what is needed to rate past usage by prices that it did not have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptUsage:
    """
    Sums over events that agree in tenant, model, pool, service class, and in the bracket of their prompt's length.

    Bracket 0 is of prompts below the first bound, 1 of those from it up to the second, and so on.
    """

    tenant: str
    model: str
    pool: str
    service_class: str
    bracket: int
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    images: int
    audio_ms: int


class PromptUsageReader(Protocol):
    """A view of the Journal; a read-only database role is enough. Blocking: call it from a thread."""

    def usage_by_prompt(self, from_ms: int, to_ms: int, bounds: Sequence[int]) -> Sequence[PromptUsage]:
        """
        Sum the events that arrived in [from_ms, to_ms) and counted anything; *bounds* ascend, in tokens.

        Reads every event of the interval. Raises StoreUnavailable within the database's time limit.
        """
