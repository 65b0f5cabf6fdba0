"""`sluice apply`: make what sluice.yaml declares so, in one step that can be taken back."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from gateway.commands.output import Format, print_json, print_records, print_table
from gateway.commands.pool_desk import File, PoolDesk, open_desk, read_file, who
from gateway.commands.records import DatabaseUrl, Home
from gateway.control.pool_file import SECTIONS, PoolFile
from gateway.control.pools import ApplyPlan, Change, carry_out
from gateway.control.price_entries import write_moment
from gateway.errors import AlreadyExists, InvalidInput
from gateway.ports.pools import Applied

COLUMNS = ("change", "kind", "name", "details")
HISTORY = ("number", "at", "who", "rolls_back_to", "digest")


def apply(
    file: File = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; write nothing.")] = False,
    history: Annotated[bool, typer.Option("--history", help="List what was applied, newest first.")] = False,
    show: Annotated[int | None, typer.Option(min=1, help="Print the text that was applied as this version.")] = None,
    rollback: Annotated[int | None, typer.Option(min=1, help="Apply this earlier version again; prices stay.")] = None,
    expect_version: Annotated[
        int | None, typer.Option(min=0, help="Refuse unless this version is what was applied last; 0 for none yet.")
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Let the file own names that were declared by `sluice models`.")
    ] = False,
    backdate: Annotated[
        bool, typer.Option("--backdate", help="Let a scope's first prices start in the past, as `prices import` does.")
    ] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    output: Format = "table",
) -> None:
    """
    Make what sluice.yaml declares so: its pools, its names and its prices, in one transaction.

    Gateways follow within a second, without a restart. What the file no longer declares is taken away if an earlier
    apply had put it there; names declared by `sluice models serve` stay. Applying the same file again changes nothing.

    Example: sluice apply sluice.yaml --dry-run
    """
    with open_desk(file, home, database_url, takes_over=take_over, backdates=backdate) as desk:
        if history:
            rows = [_to_json(each, desk) for each in desk.pools.history()]
            print_records(HISTORY, rows, output)
        elif show is not None:
            typer.echo(_text(desk, show), nl=False)
        elif rollback is not None:
            _carry_out(desk, partial(desk.plan_rollback, rollback), expect_version, output, dry_run=dry_run)
        else:
            read = read_file(file)
            _check(read)
            for warning in read.findings:
                typer.echo(f"{warning.level.value}: {warning}", err=True)
            _carry_out(desk, partial(desk.plan, read), expect_version, output, dry_run=dry_run)


def _check(read: PoolFile) -> None:
    """Raise InvalidInput for a file with errors, and for one that says nothing of pools: it would take all away."""
    read.check()
    if not any(name in read.marked.value for name in SECTIONS):
        advice = "To take away all that was applied, write `pools: {}` into it."
        raise InvalidInput(f"{read.file} declares no pools, no models and no prices. Is it the right file? {advice}")


def _text(desk: PoolDesk, number: int) -> str:
    found = desk.pools.applied(number)
    if found is None:
        raise InvalidInput(f"Version {number} was never applied. See `sluice apply --history`.")
    return found.text


def _carry_out(desk: PoolDesk, make_plan: Any, expected: int | None, output: str, *, dry_run: bool) -> None:
    if dry_run:
        plan, applied = make_plan(), None
        if expected not in {None, plan.declared.number}:
            raise AlreadyExists(f"Version {expected} is not what is applied: that is {plan.declared.number}.")
        if plan.findings:
            raise InvalidInput("\n".join(map(str, plan.findings)))
    else:
        plan, applied = carry_out(desk.pools, make_plan, who=who(), now_ms=desk.now_ms, expected=expected)
    if output == "json":
        print_json({"applied": _to_json(applied, desk) if applied else None, **plan_to_json(plan)})
    else:
        _print(plan, applied, dry_run=dry_run)


def plan_to_json(plan: ApplyPlan) -> dict[str, Any]:
    """Give a plan as plain data."""
    steps = [{**asdict(step), "change": step.change.value} for step in plan.steps]
    return {"version": plan.declared.number, "digest": plan.digest, "counts": plan.counts(), "steps": steps}


def print_plan(plan: ApplyPlan) -> None:
    """Print what changes, and what stays as it was declared by hand."""
    shown = [step for step in plan.steps if step.change is not Change.UNCHANGED]
    rows = [{**asdict(step), "change": step.change.value, "details": "; ".join(step.details)} for step in shown]
    if rows:
        print_table(COLUMNS, rows)
    typer.echo(", ".join(f"{count} {change}" for change, count in plan.counts().items() if count) or "Nothing declared")


def _print(plan: ApplyPlan, applied: Applied | None, *, dry_run: bool) -> None:
    print_plan(plan)
    if applied:
        typer.echo(f"Applied as version {applied.number}. Gateways follow within a second.")
    elif plan.writes and dry_run:
        typer.echo(f"Nothing was written: `sluice apply` would make this version {plan.declared.number + 1}.")
    else:
        typer.echo(f"Nothing to do: version {plan.declared.number} says the same.")


def _to_json(applied: Applied, desk: PoolDesk) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(applied).items() if name != "text"}
    return {**plain, "at": write_moment(applied.at_ms, desk.zone)}
