"""Every ending of a request has one name, here."""

from enum import Enum


class Fault(Enum):
    """Whose doing an ending was; only the worker's faults may count against a worker."""

    NONE = "none"
    CLIENT = "client"
    GATEWAY = "gateway"
    WORKER = "worker"


class Outcome(Enum):
    """
    How a request ended: label, HTTP status, OpenAI error type, OpenAI error code, whose fault.

    The labels are safe as metric labels and permanent in the Journal. A 499 is never sent: it marks a client that left.
    """

    COMPLETED = ("completed", 200, None, None, Fault.NONE)
    CLIENT_GONE = ("client_gone", 499, None, None, Fault.CLIENT)
    BAD_REQUEST = ("bad_request", 400, "invalid_request_error", "invalid_request", Fault.CLIENT)
    BODY_TOO_LARGE = ("body_too_large", 413, "invalid_request_error", "body_too_large", Fault.CLIENT)
    UNAUTHENTICATED = ("unauthenticated", 401, "authentication_error", "invalid_api_key", Fault.CLIENT)
    CLASS_NOT_ALLOWED = ("class_not_allowed", 403, "permission_error", "class_not_allowed", Fault.CLIENT)
    UNKNOWN_MODEL = ("unknown_model", 404, "invalid_request_error", "model_not_found", Fault.CLIENT)
    NOT_FOUND = ("not_found", 404, "invalid_request_error", "not_found", Fault.CLIENT)
    CONFLICT = ("conflict", 409, "invalid_request_error", "conflict", Fault.CLIENT)
    CANCELLED = ("cancelled", 410, "invalid_request_error", "cancelled", Fault.CLIENT)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, "invalid_request_error", "method_not_allowed", Fault.CLIENT)
    ENGINE_REFUSED = (
        "engine_refused",
        400,
        "invalid_request_error",
        None,
        Fault.CLIENT,
    )  # the engine's own 4xx, intact
    LIMITED = ("limited", 429, "rate_limit_error", "rate_limit_exceeded", Fault.GATEWAY)
    OVER_BUDGET = ("over_budget", 429, "insufficient_quota", "insufficient_quota", Fault.CLIENT)
    BUDGET_ENDED = ("budget_ended", 429, "insufficient_quota", "insufficient_quota", Fault.CLIENT)  # in mid-stream
    BUDGET_UNAVAILABLE = ("budget_unavailable", 503, "service_unavailable_error", "budget_unavailable", Fault.GATEWAY)
    QUEUE_FULL = ("queue_full", 429, "rate_limit_error", "queue_full", Fault.GATEWAY)
    WAIT_TOO_LONG = ("wait_too_long", 429, "rate_limit_error", "wait_too_long", Fault.GATEWAY)
    NO_WORKER = ("no_worker", 503, "service_unavailable_error", "no_worker", Fault.GATEWAY)
    DRAINING = ("draining", 503, "service_unavailable_error", "draining", Fault.GATEWAY)
    SPOOL_UNAVAILABLE = ("spool_unavailable", 503, "service_unavailable_error", "spool_unavailable", Fault.GATEWAY)
    ASYNC_UNAVAILABLE = ("async_unavailable", 503, "service_unavailable_error", "async_unavailable", Fault.GATEWAY)
    USAGE_UNAVAILABLE = ("usage_unavailable", 503, "service_unavailable_error", "usage_unavailable", Fault.GATEWAY)
    UPSTREAM_FAILED = ("upstream_failed", 502, "server_error", "upstream_failed", Fault.WORKER)
    UPSTREAM_TIMEOUT = ("upstream_timeout", 504, "server_error", "upstream_timeout", Fault.WORKER)
    INTERRUPTED = ("interrupted", 502, "server_error", "interrupted", Fault.GATEWAY)  # settled after a gateway died
    BUG = ("bug", 500, "server_error", "internal_error", Fault.GATEWAY)

    def __init__(self, label: str, status: int, error_type: str | None, code: str | None, fault: Fault) -> None:
        self.label = label
        self.status = status
        self.error_type = error_type
        self.code = code
        self.fault = fault
