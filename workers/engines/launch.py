"""What it takes to start an engine: options in, command line and environment out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workers.engines.parallel import Parallel


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """
    How an engine is to run. *model* is a folder; *extra_args* go to the engine as they are and win over ours.

    *adapters_max* is how many LoRA adapters it may hold at once; with 0 it takes none. With *can_sleep* it may give
    its devices' memory back for a while. With *cert* and *key* it speaks https. *env* is added to its environment.
    """

    model: str
    served_names: tuple[str, ...]
    host: str
    port: int
    api_key: str = field(repr=False)
    max_num_seqs: int
    max_batched_tokens: int
    max_model_len: int | None = None
    threads: int = 1
    is_on_cpu: bool = True
    extra_args: tuple[str, ...] = ()
    parallel: Parallel = field(default_factory=Parallel)
    adapters_max: int = 0
    can_sleep: bool = False
    cert: Path | None = None
    key: Path | None = None
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and its whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)


def inherited_environment() -> dict[str, str]:
    """Give this process's environment without what is meant for Sluice alone, such as the worker token."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
