"""
Why an engine ended, as one sentence for people.

The engine's log is searched only for lines that end a traceback or that we know; prompts are in none of them.
"""

import re
import signal

_QUOTED_CHARACTERS_MAX = 200

_ILLEGAL_INSTRUCTION = (
    "an illegal instruction: this CPU lacks instructions that the data type needs; "
    "try --engine-arg=--dtype --engine-arg=float32"
)
_OUT_OF_MEMORY = (
    "it ran out of memory: use fewer sequences (--max-num-seqs), a shorter context (--max-model-len) or more memory"
)
_CACHE_TOO_SMALL = (
    "its KV cache is too small for the context: lower --max-model-len, or on CPUs raise VLLM_CPU_KVCACHE_SPACE (GiB)"
)
# What the log may say, and what to do about it. The first that matches is told.
_HINTS = (
    (re.compile(r"[Ii]llegal instruction|SIGILL|exit ?code:? ?-4\b"), _ILLEGAL_INSTRUCTION),
    (re.compile(r"OutOfMemoryError|[Oo]ut of memory|Cannot allocate memory|bad_alloc|code:? ?-9\b"), _OUT_OF_MEMORY),
    (re.compile(r"KV cache is needed|No available memory for the cache blocks"), _CACHE_TOO_SMALL),
    (re.compile(r"[Aa]ddress already in use"), "its port is taken: choose another --port, or 0 for a free one"),
    (re.compile(r"No module named 'vllm'"), "vLLM is not installed: install the extra worker-cpu or worker-gpu"),
)
_SIGNAL_HINTS = {signal.SIGILL: _ILLEGAL_INSTRUCTION, signal.SIGKILL: "often the kernel's answer to too little memory"}
# The last line of a traceback, behind vLLM's "(EngineCore pid=12) ERROR 11-22 02:19:41 [core.py:133] ".
_ERROR_LINE = re.compile(
    r"^(?:\(\w+ pid=\d+\) )?(?:ERROR [^\]]*\] )?((?:[\w.]+\.)?\w*(?:Error|Exception): .*)$", re.MULTILINE
)


def describe_exit(status: int, log_tail: str) -> str:
    """Say why an engine ended with *status* (-n: by signal n), given the end of its log."""
    if not _is_signal(status):
        return describe(f"The engine ended with exit status {status}", log_tail)
    number = signal.Signals(-status)
    return describe(f"The engine was ended by {number.name}", log_tail, _SIGNAL_HINTS.get(number, ""))


def describe(event: str, log_tail: str, hint: str = "") -> str:
    """Add to *event* what the log knows of it: what to do about it, else *hint*, else the last error."""
    known = next((text for pattern, text in _HINTS if pattern.search(log_tail)), hint)
    if known:
        return f"{event}: {known}."
    if error := last_error(log_tail):
        return f"{event}; its log ends with: {error}"
    return f"{event}; its log says nothing of why."


def last_error(log_tail: str) -> str:
    """Give the last error that the log ends a traceback with, shortened; empty if there is none."""
    errors: list[str] = _ERROR_LINE.findall(log_tail)
    telling = [error for error in errors if "See root cause above" not in error and "See stack trace" not in error]
    return (telling or errors or [""])[-1][:_QUOTED_CHARACTERS_MAX]


def _is_signal(status: int) -> bool:
    return -status in set(signal.Signals)
