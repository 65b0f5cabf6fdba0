"""The picture of a plan, as SVG: who waited and what there was to serve them over time, and how long waits were."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from gateway.planner.report import Report, percentile
from gateway.planner.simulation import Course
from gateway.planner.stories import Ending

WIDTH, LEFT, RIGHT = 860, 70, 20
PANEL_HEIGHT, PANEL_GAP, TOP = 170, 62, 70
COLUMNS = 240  # points of a curve: more than the eye can tell apart
TICKS = 5
COLOURS = {
    "waiting": "#c2410c",
    "in flight": "#1d4ed8",
    "slots": "#64748b",
    "p50": "#0f766e",
    "p95": "#b45309",
    "p99": "#b91c1c",
    "refused or hung up": "#7c3aed",
}
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2937}.title{font-size:17px;font-weight:600}.small{font-size:11px}"
    ".panel{fill:#f8fafc;stroke:#cbd5e1}.grid{stroke:#e2e8f0}path{fill:none;stroke-width:1.8}"
)
_Curve = Sequence[tuple[float, float]]


def draw(report: Report, title: str) -> str:
    """Draw the picture of *report*."""
    course = report.course
    panels = (
        ("requests", _occupancy(course)),
        ("wait of those who came then, s", _waits(course)),
    )
    height = TOP + len(panels) * (PANEL_HEIGHT + PANEL_GAP)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text class="title" x="{LEFT}" y="28">{escape(title)}</text>'
        f'<text class="small" x="{LEFT}" y="48">{escape(_summary(report))}</text>'
    )
    body = "".join(
        "".join(_panel(TOP + place * (PANEL_HEIGHT + PANEL_GAP), label, curves, course.ended_s))
        for place, (label, curves) in enumerate(panels)
    )
    return f"{head}{body}</svg>\n"


def _summary(report: Report) -> str:
    figures = report.to_json()
    return (
        f"{figures['requests']:,} requests: {figures['served']:,} served, {figures['refused']:,} refused, "
        f"{figures['hung_up']:,} hung up, {figures['lost']:,} lost. Goal {report.goal}: "
        f"{report.workers_needed if report.workers_needed is not None else 'no number of'} workers."
    )


def _occupancy(course: Course) -> dict[str, _Curve]:
    step = math.ceil(len(course.samples) / COLUMNS)
    shown = [course.samples[place] for place in range(0, len(course.samples), step)]
    return {
        "slots": [(sample.at_s, sample.slots) for sample in shown],
        "in flight": [(sample.at_s, sample.in_flight) for sample in shown],
        "waiting": [(sample.at_s, sample.waiting) for sample in shown],
    }


def _waits(course: Course) -> dict[str, _Curve]:
    """Give percentiles of the waits by the time of arrival, in COLUMNS steps of equal length."""
    step_s = course.ended_s / COLUMNS or 1.0
    columns: dict[int, list[float]] = {}
    for story in course.stories:
        if story.ending is Ending.SERVED and story.wait_s is not None:
            columns.setdefault(int(story.request.at_s / step_s), []).append(story.wait_s)
    ordered = {column: sorted(waits) for column, waits in sorted(columns.items())}
    return {
        name: [((column + 0.5) * step_s, percentile(waits, quantile)) for column, waits in ordered.items()]
        for name, quantile in (("p99", 0.99), ("p95", 0.95), ("p50", 0.5))
    }


def _panel(top: float, label: str, curves: dict[str, _Curve], length_s: float) -> Iterator[str]:
    highest = max((value for curve in curves.values() for _, value in curve), default=0.0)
    step = _round_step(highest)
    y_max, x_step = step * max(1, math.ceil(highest / step)), _round_time(length_s)
    width, bottom = WIDTH - LEFT - RIGHT, top + PANEL_HEIGHT
    yield f'<rect class="panel" x="{LEFT}" y="{top}" width="{width}" height="{PANEL_HEIGHT}"/>'
    yield f'<text x="{LEFT}" y="{top - 8}">{escape(label)}</text>'
    for value in _ticks(y_max, step):
        y = bottom - PANEL_HEIGHT * value / y_max
        yield f'<line class="grid" x1="{LEFT}" x2="{LEFT + width}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="small" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    for at_s in _ticks(length_s, x_step):
        x = LEFT + width * at_s / length_s
        yield f'<text class="small" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{_clock(at_s)}</text>'
    for place, (name, curve) in enumerate(curves.items()):
        points = (f"{LEFT + width * x / length_s:.1f},{bottom - PANEL_HEIGHT * y / y_max:.1f}" for x, y in curve)
        yield f'<path d="M{" L".join(points)}" stroke="{COLOURS[name]}"/>' if curve else ""
        x = LEFT + width - 90 * (len(curves) - place)
        yield f'<text class="small" x="{x}" y="{top - 8}" style="fill:{COLOURS[name]};font-weight:600">{name}</text>'


def _ticks(highest: float, step: float) -> Iterator[float]:
    for place in range(int(highest / step + 1e-9) + 1):
        yield place * step


def _round_step(highest: float) -> float:
    """Give 1, 2 or 5 times a power of ten, of which about TICKS make *highest*."""
    if highest <= 0:
        return 1.0
    power = math.pow(10, math.floor(math.log10(highest / TICKS)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * TICKS >= highest)


def _round_time(length_s: float) -> float:
    steps = (1, 5, 15, 30, 60, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
    return next((step for step in steps if length_s / step <= 2 * TICKS), 86_400)


def _clock(at_s: float) -> str:
    minutes, seconds = divmod(round(at_s), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
