"""Limits: how much of what somebody may ask for per minute, or have under way at once."""

from dataclasses import dataclass
from enum import Enum

from gateway.core.usage import Usage


class Scope(Enum):
    """Whom a limit or a budget binds; the label is permanent."""

    TENANT = "tenant"
    PROJECT = "project"
    KEY = "key"
    MODEL = "model"  # all tenants together; limits only


class Metric(Enum):
    """What a limit counts; the label is permanent."""

    REQUESTS = "requests"  # per minute
    INPUT_TOKENS = "input_tokens"  # per minute
    OUTPUT_TOKENS = "output_tokens"  # per minute
    TOKENS = "tokens"  # per minute, both together
    CONCURRENT = "concurrent"  # requests under way at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """
    A declared limit. *subject* is a tenant's id, `tenant/project`, a key's id or a model's name, as *scope* says.

    *tenant* is whose it is, empty for a model's. *model* narrows it to requests for that model, empty means all.
    *amount* is per minute, or at once for CONCURRENT. *scope* and *metric* are labels.
    """

    id: str
    scope: str
    subject: str
    tenant: str = ""
    model: str = ""
    metric: str
    amount: int
    is_removed: bool = False


def counted(metric: str, usage: Usage) -> int:
    """Give what *usage* comes to in a limit on tokens; *metric* is a label. Of the others it is one request."""
    if metric == Metric.INPUT_TOKENS.value:
        return usage.prompt
    if metric == Metric.OUTPUT_TOKENS.value:
        return usage.completion
    return usage.total if metric == Metric.TOKENS.value else 1


def is_rate(metric: str) -> bool:
    """Tell whether a limit is per minute; else it is of what is under way at once."""
    return metric != Metric.CONCURRENT.value
