"""`sluice plan`: how long people wait for a load, and how many workers keep that under a goal. No gateway is needed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.commands.output import Format, print_json, print_table
from gateway.commands.records import Home
from gateway.core.directory import ServiceClass
from gateway.core.scheduling import LineBounds
from gateway.errors import InvalidInput
from gateway.planner.engine import Pace
from gateway.planner.fleet import Size
from gateway.planner.load import Crowd, Lengths, Load, Request, draw_load, multiply, populate, spike_start_s
from gateway.planner.picture import draw
from gateway.planner.quantities import (
    Goal,
    Share,
    Spike,
    parse_classes,
    parse_duration_s,
    parse_goal,
    parse_spike,
    parse_tenant,
)
from gateway.planner.report import Figures, Report
from gateway.planner.routes import POLICIES
from gateway.planner.scalers import SCALERS
from gateway.planner.search import WORKERS_MAX, workers_needed
from gateway.planner.simulation import Plan, Simulation
from gateway.planner.traces import read_trace
from gateway.settings import QueueSettings, load_settings

_COLUMNS = (
    "who",
    "requests",
    "served",
    "refused",
    "hung_up",
    "wait p50",
    "wait p95",
    "wait p99",
    "ttft p50",
    "ttft p99",
)


_GOAL = "p95 wait < 10s"
_POLICY_HELP = f"Compare ways to choose a worker, with prefix caches: {', '.join(POLICIES)}."


def plan(
    trace: Annotated[Path | None, typer.Option(help="Mooncake's JSON lines or Azure's CSV.")] = None,
    rps: Annotated[float | None, typer.Option(help="Requests per second, if there is no trace.")] = None,
    users: Annotated[int | None, typer.Option(help="Requests over the whole time, instead of --rps.")] = None,
    length: Annotated[str, typer.Option("--for", help="How long --rps or --users lasts.")] = "1h",
    spike: Annotated[str | None, typer.Option(help="FACTORx[@START][+LENGTH], as 300x@600s+900s.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Mean, if there is no trace.")] = 1000,
    output_tokens: Annotated[int, typer.Option(min=1, help="Mean, if there is no trace.")] = 200,
    tokens_sigma: Annotated[float, typer.Option(min=0, max=3, help="Spread of lengths; 0: all alike.")] = 0.6,
    cached_share: Annotated[float, typer.Option(min=0, max=1, help="Of prompts, found in prefix caches.")] = 0.0,
    tenant: Annotated[list[str] | None, typer.Option(help="NAME=SHARE[:CLASS[:WEIGHT]]; repeat.")] = None,
    classes: Annotated[str, typer.Option(help="CLASS=SHARE,… of tenants without a class.")] = "standard=1",
    patience: Annotated[str | None, typer.Option(help="Median until a client hangs up. Default: never.")] = None,
    wait_max: Annotated[str | None, typer.Option(help="Who would wait longer is refused. Default: settings.")] = None,
    speed: Annotated[float, typer.Option(help="Play a trace so many times as fast.")] = 1.0,
    policy: Annotated[str | None, typer.Option(help=_POLICY_HELP)] = None,
    gateways: Annotated[int, typer.Option(min=1, max=1000, help="Gateways that route by --policy.")] = 1,
    kv_cache_tokens: Annotated[int, typer.Option(min=0, help="Prefix cache of a worker, with --policy.")] = 512_000,
    workers: Annotated[int, typer.Option(help="Workers ready from the beginning on.")] = 8,
    workers_max: Annotated[int | None, typer.Option(help="As many start when they are needed.")] = None,
    scale: Annotated[str | None, typer.Option(help=f"What starts and stops them: {', '.join(SCALERS)}.")] = None,
    cold_start: Annotated[str, typer.Option(help="What such a start takes.")] = "120s",
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Requests that a worker takes at once.")] = 64,
    prefill_tokens_per_s: Annotated[float, typer.Option(help="Of one worker.")] = 8_000.0,
    inter_token_ms: Annotated[float, typer.Option(help="A step without prefill.")] = 20.0,
    inter_token_ms_per_seq: Annotated[float, typer.Option(min=0, help="… and for each that decodes.")] = 0.0,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="Tokens in a step.")] = 8192,
    waiting_max: Annotated[int | None, typer.Option(min=0, help="Tickets that may wait. Default: settings.")] = None,
    goal: Annotated[str | None, typer.Option(help=f"mean or pN of wait or ttft. Default: '{_GOAL}'.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same plan.")] = 1,
    picture: Annotated[Path | None, typer.Option(help="Write an SVG here.")] = None,
    home: Home = None,
    output: Format = "table",
) -> None:
    """
    Simulate a load on a pool: how long people wait, and how many workers keep that under a goal.

    The gateway's own scheduling runs in virtual time. Waits are those until an engine has the request; in the goal
    whoever is refused or hangs up counts as having waited for ever. `workers_needed` are ready from the beginning on;
    with --policy or --scale, which compare ways of routing and of scaling, they are looked for only if there is a
    --goal.

    Example: sluice plan --rps 5 --for 1h --spike 30x@600s+300s --workers 8 --goal 'p95 wait < 10s'
    Example: sluice plan --rps 0.1 --spike 300x@600s+3000s --workers 1 --workers-max 100 --cold-start 60s --scale sluice
    Example: sluice plan --trace conversations.jsonl --speed 4 --workers 32 --gateways 8 --policy sluice
    """
    aim, settings = parse_goal(goal or _GOAL), load_settings(home=home).queue
    _check_positive({"--prefill-tokens-per-s": prefill_tokens_per_s, "--inter-token-ms": inter_token_ms})
    _check_positive({"--speed": speed})
    _check_policy(policy, trace)
    _check_scale(scale, workers_max)
    crowd = Crowd(
        shares=_tenants(tenant or []),
        classes=parse_classes(classes),
        patience_s=math.inf if patience is None else _positive_s(patience, "--patience"),
        wait_s_max=_wait_limits(wait_max, settings),
        cached_share=cached_share,
    )
    pace = Pace(
        prefill_tokens_per_s=prefill_tokens_per_s,
        inter_token_s=inter_token_ms / 1000,
        inter_token_s_per_seq=inter_token_ms_per_seq / 1000,
        max_num_seqs=max_num_seqs,
        max_batched_tokens=max_num_batched_tokens,
    )
    size = _size(workers, workers_max, parse_duration_s(cold_start, "--cold-start"))
    bounds = LineBounds(
        waiting_max=settings.waiting_max if waiting_max is None else waiting_max,
        tenant_share=settings.tenant_share if tenant else 1.0,  # a load without tenants stands for many
    )
    what = Plan(size=size, pace=pace, bounds=bounds, seed=seed, scale=scale)
    if policy:
        what = replace(what, policy=policy, gateways=gateways, cache_tokens=kv_cache_tokens)
    lengths = Lengths(prompt_tokens=prompt_tokens, output_tokens=output_tokens, sigma=tokens_sigma)
    _check_one(trace, rps, users)
    burst = parse_spike(spike) if spike else None
    load = Load(length_s=_positive_s(length, "--for"), rps=rps or 0.0, users=users, lengths=lengths, spike=burst)
    requests = _requests(trace, speed, load, burst, seed)
    report = _simulate(
        populate(requests, crowd, seed), what, aim, seeks=(policy is None and scale is None) or goal is not None
    )
    if burst:
        report = replace(report, spike_s=spike_start_s(burst, requests[-1].at_s if trace else load.length_s))
    if picture:
        _write(picture, draw(report, _title(trace, rps, users, length, spike)))
    if output == "json":
        print_json(report.to_json())
    else:
        _print(report.to_json())


def _check_policy(policy: str | None, trace: Path | None) -> None:
    if policy is not None and policy not in POLICIES:
        raise InvalidInput(f"There is no routing policy {policy!r}. Choose one of {', '.join(POLICIES)}.")
    if policy is not None and trace is None:
        raise InvalidInput("--policy needs a --trace that says which prompts begin alike: Mooncake's, with hash_ids.")


def _check_scale(scale: str | None, workers_max: int | None) -> None:
    if scale is not None and scale not in SCALERS:
        raise InvalidInput(f"There is no scaler {scale!r}. Choose one of {', '.join(SCALERS)}.")
    if scale is not None and workers_max is None:
        raise InvalidInput("--scale needs --workers-max: the most workers that it may start.")


def _requests(trace: Path | None, speed: float, load: Load, spike: Spike | None, seed: int) -> list[Request]:
    """Read the trace, or draw what is described; a spike multiplies either."""
    if trace is None:
        requests = draw_load(load, seed)
    else:
        requests = [replace(one, at_s=one.at_s / speed) for one in read_trace(trace)]
        requests = multiply(requests, spike, seed) if spike else requests
    if not requests:
        raise InvalidInput("Nobody comes at this rate within this time: raise --rps, --users or --for.")
    return requests


def _check_one(trace: Path | None, rps: float | None, users: int | None) -> None:
    """Raise InvalidInput unless there is exactly one load, of more than nobody."""
    given = [name for name, value in (("--trace", trace), ("--rps", rps), ("--users", users)) if value is not None]
    if len(given) != 1:
        found = " and ".join(given) or "neither"
        raise InvalidInput(f"A plan needs one load: --trace FILE, --rps NUMBER or --users NUMBER; there is {found}.")
    _check_positive({"--rps": rps, "--users": users})


def _simulate(requests: Sequence[Request], what: Plan, aim: Goal, *, seeks: bool) -> Report:
    """Run the plan and, if it *seeks*, search for the number of workers, with a bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("as planned", total=1.0)

        def show(what_runs: str, part: float) -> None:
            progress.update(bar, description=what_runs, completed=part)

        course = Simulation(requests, what, partial(show, "as planned")).run()
        needed = workers_needed(requests, what, aim, show) if seeks else None
    return Report(course=course, plan=what, goal=aim, workers_needed=needed)


def _wait_limits(wait_max: str | None, settings: QueueSettings) -> dict[ServiceClass, float]:
    if wait_max is None:
        return {one: getattr(settings.wait_s_max, one.label) for one in ServiceClass}
    return dict.fromkeys(ServiceClass, _positive_s(wait_max, "--wait-max"))


def _size(workers: int, workers_max: int | None, cold_start_s: float) -> Size:
    if workers < 0 or (not workers and not workers_max):
        raise InvalidInput(f"--workers is {workers}; a pool needs at least 1, or 0 with --workers-max.")
    if workers_max is not None and workers_max < workers:
        raise InvalidInput(f"--workers-max is {workers_max}, less than the {workers} of --workers.")
    if max(workers, workers_max or 0) > WORKERS_MAX:
        raise InvalidInput(f"A plan takes {WORKERS_MAX:,} workers at most.")
    return Size(workers=workers, workers_max=workers_max, cold_start_s=cold_start_s)


def _tenants(texts: Sequence[str]) -> list[Share]:
    shares = [parse_tenant(text) for text in texts]
    names = [share.tenant for share in shares]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidInput(f"--tenant names {twice!r} twice; each tenant has one share.")
    if shares and not sum(share.share for share in shares):
        raise InvalidInput("--tenant: at least one share must be above 0.")
    return shares


def _positive_s(text: str, option: str) -> float:
    duration_s = parse_duration_s(text, option)
    _check_positive({option: duration_s})
    return duration_s


def _check_positive(values: Mapping[str, float | None]) -> None:
    for option, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise InvalidInput(f"{option} is {value:g}; it must be above 0.")


def _write(file: Path, drawing: str) -> None:
    try:
        file.write_text(drawing)
    except OSError as error:
        raise InvalidInput(f"The picture {file} cannot be written: {error.strerror}.") from error


def _title(trace: Path | None, rps: float | None, users: int | None, length: str, spike: str | None) -> str:
    load = trace.name if trace else f"{users:,} users in {length}" if users else f"{rps:g} requests/s for {length}"
    return load + (f", {spike}" if spike else "")


def _print(figures: Figures) -> None:
    groups = {**figures["by_class"], **figures["by_tenant"]} if len(figures["by_tenant"]) > 1 else figures["by_class"]
    print_table(_COLUMNS, [_row(name, group) for name, group in groups.items()], _row("all", figures))
    most, needed = figures["workers_most"], figures["workers_needed"]
    met = "met" if figures["goal_met"] else "missed"
    typer.echo(
        f"{most} workers at most, {figures['worker_hours']} worker hours, {figures['waiting_max']:,} waited at once."
    )
    answer = f"{needed} workers, always ready, meet it" if needed else f"not even {WORKERS_MAX:,} workers meet it"
    typer.echo(f"Goal {figures['goal']}: {met}; {answer}.")


def _row(name: str, figures: Figures) -> Figures:
    waits = {f"wait {part}": figures["wait_s"][part] for part in ("p50", "p95", "p99")}
    firsts = {f"ttft {part}": figures["ttft_s"][part] for part in ("p50", "p99")}
    return {"who": name, **figures, **waits, **firsts}
