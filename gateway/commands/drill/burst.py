"""`sluice drill burst`: its options, checked, and what it leaves behind: figures, a file, a picture, an exit status."""

import json
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from gateway.commands.drill.figures import Observed, figures
from gateway.commands.drill.options import (
    Where,
    address,
    allow_files,
    capacity_in_words,
    check_belongs,
    check_numbers,
    check_writable,
    factor,
    own_stage,
    shares,
    time_to_end,
    wait_limits,
)
from gateway.commands.drill.picture import picture
from gateway.commands.drill.run import Plan, run
from gateway.commands.drill.scenario import Scenario
from gateway.commands.drill.screen import Screen, print_result
from gateway.commands.output import Format, print_json
from gateway.commands.records import Home

LONG_S = 3600.0
# As means: drawn lengths are up to eight times that, and prompt and answer share the simulated context of 65,536.
PROMPT_TOKENS_MAX, OUTPUT_TOKENS_MAX = 6000, 2000
INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended

app = typer.Typer(help="Bursts of real clients against simulated workers, before the day comes.", no_args_is_help=True)


@app.callback()
def drill() -> None:
    """Bursts of real clients against simulated workers, before the day comes."""


@app.command()
def burst(
    users: Annotated[int, typer.Option(min=1, help="Clients that come, each with one streamed request.")] = 5000,
    spike: Annotated[
        str, typer.Option(help="Demand against the base rate: users / over / spike requests/s come in the calm before.")
    ] = "300x",
    over: Annotated[float, typer.Option(min=0.1, max=LONG_S, help="Seconds within which they come.")] = 30.0,
    calm: Annotated[float, typer.Option(min=0, max=LONG_S, help="Seconds at the base rate before the burst.")] = 5.0,
    tenants: Annotated[int, typer.Option(min=1, help="Tenants, of equal weight, that they belong to.")] = 20,
    flood: Annotated[str, typer.Option(help="The first tenant asks for so many times as much as each other.")] = "1x",
    classes: Annotated[
        str, typer.Option(help="Shares of the classes of service, such as interactive=20,standard=70,batch=10.")
    ] = "standard=1",
    prompt_tokens: Annotated[
        int, typer.Option(min=1, max=PROMPT_TOKENS_MAX, help="Mean length of a prompt, log-normal.")
    ] = 200,
    output_tokens: Annotated[
        int, typer.Option(min=1, max=OUTPUT_TOKENS_MAX, help="Mean length of an answer, log-normal.")
    ] = 16,
    hangups: Annotated[
        float, typer.Option(min=0, max=1, help="Share of users that leave after 4 to 12 s of waiting.")
    ] = 0.05,
    patience: Annotated[
        float | None, typer.Option(min=0.1, help="Median seconds that users wait, log-normal. Default: for ever.")
    ] = None,
    end_after: Annotated[
        float | None, typer.Option(min=1, help="Seconds after the last arrival at which the drill ends in any case.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same users.")] = 1,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="Bring up gateways and simulated workers, and end them.")
    ] = False,
    gateways: Annotated[
        int | None, typer.Option(min=1, help="With --self-contained: gateway processes; default 3.")
    ] = None,
    capacity: Annotated[
        float | None, typer.Option(min=0.1, help="With --self-contained: requests/s the workers serve; default 60.")
    ] = None,
    scale_at: Annotated[
        float | None,
        typer.Option(min=0, help="With --self-contained: more workers after this part of users / capacity seconds."),
    ] = None,
    scale_to: Annotated[str, typer.Option(help="With --scale-at: the capacity from then on.")] = "2x",
    cold_start: Annotated[
        float, typer.Option(min=0, help="With --scale-at: seconds that workers load, the first ones too.")
    ] = 30.0,
    url: Annotated[
        list[str] | None, typer.Option(help="A gateway that runs, if it is not the one of --home. [repeatable]")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Use this key for all, in place of tenants made for the drill.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask for, if the workers serve several.")] = None,
    home: Home = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, too.")] = None,
    picture_file: Annotated[Path | None, typer.Option("--picture", help="Draw waits and ETAs into this SVG.")] = None,
    output: Format = "table",
) -> None:
    """
    Let a burst of clients come, and print what became of them.

    With --self-contained everything runs on this machine, in a temporary home, with your own sluice.yaml and
    environment. Without it the target is a gateway that runs, whose workers must all be simulated; it is found, and its
    admin token, as by `sluice status`.

    The exit status is 0 if nobody was lost or starved, 1 if somebody was; docs/operators.md explains the figures.

    Example: sluice drill burst --self-contained --users 1000 --capacity 30 --picture burst.svg
    """
    scenario = Scenario(
        users=users,
        over_s=over,
        spike=factor("--spike", spike),
        calm_s=calm,
        tenants=1 if key else tenants,
        classes=shares(classes),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        flood=factor("--flood", flood),
        hangups=hangups,
        patience_s=patience,
        seed=seed,
    )
    check_numbers(
        {"--over": over, "--calm": calm, "--hangups": hangups, "--patience": patience, "--capacity": capacity}
    )
    check_numbers({"--scale-at": scale_at, "--cold-start": cold_start, "--end-after": end_after})
    own = {"--gateways": gateways, "--capacity": capacity, "--scale-at": scale_at}
    foreign = {"--url": url, "--key": key, "--model": model}
    check_belongs(foreign if self_contained else own, is_self_contained=self_contained)
    check_writable(json_file, picture_file)
    allow_files(users)
    if self_contained:
        growth = factor("--scale-to", scale_to)
        where: Where = own_stage(scenario, gateways, capacity, scale_at, growth, cold_start)
    else:
        where = address(home, url, key, model)
    plan = Plan(
        scenario=scenario, where=where, wait_limits_s=wait_limits(home), end_s=end_after or time_to_end(where, users)
    )
    seen = uvloop.run(run(plan, Screen(capacity_in_words(where))))
    if seen is None:
        raise typer.Exit(INTERRUPTED)
    _finish(seen, json_file, picture_file, output)


def _finish(seen: Observed, json_file: Path | None, picture_file: Path | None, output: str) -> None:
    """Write and print the result; the exit status says whether anybody was lost or starved."""
    result = figures(seen)
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
    if picture_file:
        title = f"{seen.scenario.users:,} users within {seen.scenario.over_s:g} s, {seen.gateways} gateway(s)"
        picture_file.write_text(picture(seen, title))
    if output == "json":
        print_json(result)
    else:
        print_result(result)
    raise typer.Exit(1 if result["lost"] or result["starved"] else 0)
