"""Durations, spikes, shares and goals as people write them. What is wrong raises InvalidInput with the right form."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.directory import SERVICE_CLASSES, ServiceClass
from gateway.errors import InvalidInput

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|)")
_SPIKE = re.compile(r"(\d+(?:\.\d+)?)x(?:@([^+@]+))?(?:\+([^+@]+))?")
_GOAL = re.compile(r"(mean|p\d{1,2}(?:\.\d+)?)\s+(wait|ttft)\s*<=?\s*(\S.*)")
_TENANT = re.compile(r"([^\s=:,]+)=(\d+(?:\.\d+)?)(?::([a-z]+))?(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Spike:
    """From *start_s* on, for *length_s*, *factor* times the load; None where the load's length decides."""

    factor: float
    start_s: float | None = None
    length_s: float | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """
    What a pool must achieve: the *quantile* of *figure* ("wait" or "ttft") below *limit_s*; no quantile is the mean.

    Whoever is refused or hangs up has waited in vain, which is longer than any limit.
    """

    figure: str
    quantile: float | None
    limit_s: float

    def __str__(self) -> str:
        measure = "mean" if self.quantile is None else f"p{100 * self.quantile:g}"
        return f"{measure} {self.figure} < {self.limit_s:g}s"


@dataclass(frozen=True, slots=True)
class Share:
    """A tenant's part of the load; *service_class* None draws one for each request."""

    tenant: str
    share: float
    service_class: ServiceClass | None = None
    weight: int = 1


def parse_duration_s(text: str, option: str) -> float:
    """Read "90", "90s", "1.5m", "1h" or "250ms" as seconds."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise InvalidInput(f"{option} is {text!r}; it must be a duration such as 250ms, 90s, 15m or 1h.")
    return float(match[1]) * _UNITS_S[match[2]]


def parse_spike(text: str, option: str = "--spike") -> Spike:
    """Read "300x", "300x@600s" or "300x@600s+900s": so many times the load, from when, for how long."""
    match = _SPIKE.fullmatch(text.strip())
    if not match:
        raise InvalidInput(f"{option} is {text!r}; it must be a factor, a start and a length, such as 300x@600s+900s.")
    start, length = (parse_duration_s(part, option) if part else None for part in match.groups()[1:])
    if length == 0:
        raise InvalidInput(f"{option} is {text!r}; a spike must last longer than 0 s.")
    return Spike(float(match[1]), start, length)


def parse_goal(text: str, option: str = "--goal") -> Goal:
    """Read "p95 wait < 10s", "p99 ttft < 500ms" or "mean wait < 3s"."""
    match = _GOAL.fullmatch(text.strip().lower())
    if not match:
        raise InvalidInput(
            f"{option} is {text!r}; it must be such as 'p95 wait < 10s', 'p99 ttft < 500ms' or 'mean wait < 3s'."
        )
    quantile = None if match[1] == "mean" else float(match[1][1:]) / 100
    if quantile == 0:
        raise InvalidInput(f"{option} is {text!r}; p0 says nothing: name a percentile from p1 to p99.9.")
    return Goal(match[2], quantile, parse_duration_s(match[3], option))


def parse_classes(text: str, option: str = "--classes") -> Mapping[ServiceClass, float]:
    """Read "interactive=0.2,standard=0.8" as shares of the load."""
    shares: dict[ServiceClass, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        if name not in SERVICE_CLASSES or not re.fullmatch(r"\d+(\.\d+)?", share):
            known = ", ".join(SERVICE_CLASSES)
            raise InvalidInput(f"{option} has {part!r}; each part must be CLASS=SHARE, with a class of {known}.")
        shares[SERVICE_CLASSES[name]] = float(share)
    if not sum(shares.values()):
        raise InvalidInput(f"{option} is {text!r}; at least one share must be above 0.")
    return shares


def parse_tenant(text: str, option: str = "--tenant") -> Share:
    """Read "acme=3", "acme=3:interactive" or "acme=3:interactive:10": share, class, weight."""
    match = _TENANT.fullmatch(text.strip())
    if not match or (match[3] and match[3] not in SERVICE_CLASSES):
        raise InvalidInput(
            f"{option} is {text!r}; it must be NAME=SHARE[:CLASS[:WEIGHT]], such as acme=3:interactive:10."
        )
    weight = int(match[4] or 1)
    if not 1 <= weight <= 100:
        raise InvalidInput(f"{option} is {text!r}; a weight must be 1 to 100.")
    return Share(match[1], float(match[2]), SERVICE_CLASSES[match[3]] if match[3] else None, weight)
