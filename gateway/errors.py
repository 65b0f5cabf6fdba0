"""
The error tree. A foreign exception becomes one of these at the border where it is met, `from` its cause.

    SluiceError
    ├── Refused                a request ends here; has its Outcome and the OpenAI error body    (client | gateway)
    ├── WorkerFailed           an engine was out of reach, broke off or spoke nonsense       (worker; retry may help)
    ├── StoreUnavailable       Redis, the database or the spool's disk does not answer           (store; retry may help)
    ├── NotFoundError          a named thing does not exist                                          (operator)
    ├── AlreadyExists          a name is taken                                                       (operator)
    ├── InvalidInput           a setting, an argument or a file is wrong; names it and what to do    (operator)
    └── StartFailed            a part of a local installation did not come up; names its log         (operator)
"""

import json
from collections.abc import Mapping
from typing import Any

from gateway.core.health import WorkerFault
from gateway.core.outcome import Outcome


class SluiceError(Exception):
    """The root: everything Sluice raises on purpose."""


class Refused(SluiceError):  # noqa: N818  a refusal is not an error of ours
    """
    A request ends with *outcome*; *message* names the thing, the value, the limit, and what to do next.

    *param* is the field of the request it is about, *code* overrides the outcome's own, *retry_after_s* (≤ 60, the most
    that OpenAI's Node SDK obeys) goes out as `Retry-After`; *should_retry* as `x-should-retry`, which OpenAI's SDKs
    obey before anything else. *limit* tells machines which limit it was, in the body.
    """

    def __init__(
        self,
        outcome: Outcome,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        limit: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message
        self.param = param
        self.code = code or outcome.code
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.limit = limit

    def body(self) -> bytes:
        """Give the OpenAI error body, as JSON bytes."""
        return error_body(self.message, self.outcome.error_type, self.param, self.code, self.limit)


class WorkerFailed(SluiceError):  # noqa: N818
    """
    An engine failed this attempt; *reason* is a short label, *had_timeout* tells 504 from 502.

    *fault* is what it is to be blamed for; None if it could not help it.
    """

    def __init__(
        self,
        worker: str,
        reason: str,
        *,
        had_timeout: bool = False,
        fault: WorkerFault | None = WorkerFault.BROKEN,
    ) -> None:
        super().__init__(f"worker {worker}: {reason}")
        self.worker = worker
        self.reason = reason
        self.had_timeout = had_timeout
        self.fault = fault


class StoreUnavailable(SluiceError):  # noqa: N818
    """A store does not answer; *store* is its name as /readyz and the metrics show it."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"{store} is unavailable: {reason}")
        self.store = store
        self.reason = reason


class NotFoundError(SluiceError):
    """A thing that was named does not exist."""


class AlreadyExists(SluiceError):  # noqa: N818
    """A name that must be new is taken."""


class InvalidInput(SluiceError):  # noqa: N818
    """A setting, an argument or a file is wrong; the message names it, its value and what to do."""


class StartFailed(SluiceError):  # noqa: N818
    """A part that `sluice up` starts did not come up; the message says why and where its log is."""


def error_body(
    message: str, error_type: str | None, param: str | None, code: str | None, limit: Mapping[str, Any] | None = None
) -> bytes:
    """Give an error in OpenAI's form, as JSON bytes; *limit* is a member of our own."""
    error: dict[str, Any] = {"message": message, "type": error_type, "param": param, "code": code}
    if limit is not None:
        error["limit"] = limit
    return json.dumps({"error": error}, ensure_ascii=False).encode()
