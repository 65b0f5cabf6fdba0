"""
The result as a picture, plain SVG: wait over arrival for each class, and the ETA told against the wait had.

A point is a path of no length with a round end, ten bytes of it: thousands of them stay a small file.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape

from gateway.commands.drill.client import Ending, Story
from gateway.commands.drill.figures import STEADY_S, Observed, eta_told, wait_s

_WIDTH, _HEIGHT, _PANEL = 960, 400, 400
_LEFT, _TOP, _GAP = 56, 56, 80
_PANEL_HEIGHT = _HEIGHT - _TOP - 56
_COLOURS = {"interactive": "#0b7285", "standard": "#e67700", "batch": "#862e9c"}
_INK, _RULE = "#212529", "#ced4da"
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_TICKS_MAX = 7

Point = tuple[float, float]


def picture(seen: Observed, title: str) -> str:
    """Draw what was *seen*."""
    served = [story for story in seen.stories if story.visit.is_burst and story.ending is Ending.SERVED]
    arrivals, etas = _by_class(served, seen), _etas_by_class(served, seen)
    by_arrival = _Panel(_LEFT, arrivals.values(), "seconds since the burst began", "wait in seconds")
    by_eta = _Panel(_LEFT + _PANEL + _GAP, etas.values(), "wait had, seconds", "ETA told, seconds")
    parts = [_legend(arrivals), by_arrival.axes(), by_eta.axes(), by_eta.diagonal()]
    parts += [by_arrival.points(points, _COLOURS[name]) for name, points in arrivals.items()]
    parts += [by_eta.points(points, _COLOURS[name]) for name, points in etas.items()]
    return _document(title, parts)


def _by_class(served: Iterable[Story], seen: Observed) -> dict[str, list[Point]]:
    points: dict[str, list[Point]] = {name: [] for name in _COLOURS if name in seen.scenario.classes}
    for story in served:
        points[story.visit.service_class].append((story.sent_s - seen.began_s, wait_s(story)))
    return points


def _etas_by_class(served: Iterable[Story], seen: Observed) -> dict[str, list[Point]]:
    points: dict[str, list[Point]] = {name: [] for name in _COLOURS}
    for story in served:
        if told := eta_told(story, seen.began_s + STEADY_S):
            eta_s, actual_s = told
            points[story.visit.service_class].append((actual_s, eta_s))
    return points


class _Panel:
    """One pair of axes, from 0 to the largest of the *clouds* of points."""

    def __init__(self, left: int, clouds: Iterable[Sequence[Point]], x_label: str, y_label: str) -> None:
        points = [point for cloud in clouds for point in cloud]
        x_max, y_max = (max((point[axis] for point in points), default=1.0) for axis in (0, 1))
        self._left = left
        self._x_step, self._y_step = _step(x_max), _step(y_max)
        self._x_max = self._x_step * max(1, math.ceil(x_max / self._x_step))
        self._y_max = self._y_step * max(1, math.ceil(y_max / self._y_step))
        self._labels = x_label, y_label

    def axes(self) -> str:
        """Draw the frame, the rules with their numbers, and the names of the axes."""
        bottom, right = _TOP + _PANEL_HEIGHT, self._left + _PANEL
        parts = []
        for value in _ticks(self._y_step, self._y_max):
            y = self._y(value)
            parts.append(f'<path d="M{self._left} {y}H{right}" stroke="{_RULE}"/>')
            parts.append(f'<text x="{self._left - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>')
        for value in _ticks(self._x_step, self._x_max):
            x = self._x(value)
            parts.append(f'<path d="M{x} {bottom}v5" stroke="{_INK}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>')
        x_label, y_label = self._labels
        parts.append(f'<text x="{self._left + _PANEL / 2}" y="{bottom + 38}" text-anchor="middle">{x_label}</text>')
        parts.append(f'<text x="{self._left}" y="{_TOP - 10}">{y_label}</text>')
        return "".join(parts)

    def diagonal(self) -> str:
        """Draw where both axes have the same value."""
        end = min(self._x_max, self._y_max)
        path = f"M{self._x(0)} {self._y(0)}L{self._x(end)} {self._y(end)}"
        return f'<path d="{path}" stroke="{_INK}" stroke-dasharray="4 4"/>'

    def points(self, points: Iterable[Point], colour: str) -> str:
        """Draw a dot for each point."""
        path = "".join(f"M{self._x(x)} {self._y(y)}h0" for x, y in points)
        return f'<path d="{path}" stroke="{colour}" stroke-width="3" stroke-linecap="round" opacity="0.5"/>'

    def _x(self, value: float) -> float:
        return round(self._left + _PANEL * value / self._x_max, 1)

    def _y(self, value: float) -> float:
        return round(_TOP + _PANEL_HEIGHT * (1 - value / self._y_max), 1)


def _document(title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{_INK}"><title>{escape(title)}</title><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{_LEFT}" y="22" font-size="14" font-weight="bold">{escape(title)}</text>'
    )
    return head + "\n".join(parts) + "</svg>\n"


def _legend(classes: Iterable[str]) -> str:
    parts = []
    for number, name in enumerate(classes):
        x = _LEFT + 140 + 100 * number
        parts.append(f'<circle cx="{x}" cy="{_TOP - 14}" r="4" fill="{_COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 9}" y="{_TOP - 10}">{escape(name)}</text>')
    return "".join(parts)


def _step(largest: float) -> float:
    return next((step for step in _STEPS if largest / step <= _TICKS_MAX), largest)


def _ticks(step: float, end: float) -> list[float]:
    return [step * number for number in range(round(end / step) + 1)]
