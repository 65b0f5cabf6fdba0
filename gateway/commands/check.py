"""`sluice check`: what sluice.yaml would do, line by line, what is wrong with it, and what it would change."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import httpx
import typer
from pydantic import BaseModel, ValidationError

from gateway.commands.apply import plan_to_json, print_plan
from gateway.commands.local.gateway_client import GatewayClient, find_gateway
from gateway.commands.output import Format, print_json, print_table
from gateway.commands.pool_desk import File, open_desk, read_file, read_price_file
from gateway.commands.pool_memory import adapter_findings, memory_findings, memory_lines
from gateway.commands.records import DatabaseUrl, Home
from gateway.control.file_fields import Finding, Findings, Level
from gateway.control.pool_checks import limit_findings
from gateway.control.pool_file import PoolFile
from gateway.control.pool_words import Line, explain
from gateway.control.pools import ApplyPlan
from gateway.core.zones import load_zone
from gateway.errors import InvalidInput, SluiceError
from gateway.settings import QueueSettings, Settings, load_settings, settings_flaws

ERRORS, WARNINGS = 1, 2  # exit statuses
_COLUMNS = ("line", "name", "value", "effect")


@dataclass(frozen=True, slots=True)
class _Comparison:
    """What applying the file would change, and the workers that run; or why that is not known."""

    plan: ApplyPlan | None = None
    why_no_plan: str = ""
    workers: Mapping[str, Any] | None = None
    why_no_workers: str = ""


def check(file: File = None, home: Home = None, database_url: DatabaseUrl = None, output: Format = "table") -> None:
    """
    Say what each line of sluice.yaml will do, what is wrong with it, and what `sluice apply` would change.

    It writes nothing and needs neither database nor gateway; what it cannot compare with, it names. The exit status is
    0 if nothing was found, 1 if there are errors (`sluice apply` would refuse), 2 if there are only warnings.

    Example: sluice check sluice.yaml
    """
    read = read_file(file)
    findings = [*_settings_findings(read), *read.findings, *_limit_findings(read)]
    findings += [*_price_findings(read), *memory_findings(read), *adapter_findings(read)]
    compared = _Comparison(why_no_plan="the file has errors", why_no_workers="the file has errors")
    if not _errors(findings):
        compared = _compare(read, file, home, database_url)
        findings += compared.plan.findings if compared.plan else ()
    findings.sort(key=lambda each: each.spot)
    show = _print_json if output == "json" else _print
    show(read, findings, compared)
    raise typer.Exit(ERRORS if _errors(findings) else WARNINGS if findings else 0)


def _lines(file: PoolFile) -> list[Line]:
    """Say what each line does; where a model could be measured, that says more than the words for its GPUs."""
    measured = {line.name: line for line in memory_lines(file)}
    return [measured.get(line.name, line) for line in explain(file, setting_words)]


def _errors(findings: list[Finding]) -> bool:
    return any(each.level is Level.ERROR for each in findings)


def _settings_findings(file: PoolFile) -> list[Finding]:
    return [
        Finding(Level.ERROR, at.file, at.named_at if message.startswith("is not") else at.spot, name, message)
        for at, name, message in settings_flaws(file.marked)
    ]


def _price_findings(file: PoolFile) -> list[Finding]:
    found = Findings()
    if file.prices:
        try:
            read_price_file(file, load_zone("UTC"))
        except InvalidInput as error:
            found.error(file.marked.find(("prices",)), str(error).rstrip("."))
    return found.found


def _limit_findings(file: PoolFile) -> list[Finding]:
    queue = file.marked.value.get("queue")
    try:
        limits = QueueSettings.model_validate(queue.plain() if queue else {})
    except ValidationError:  # which is found as a wrong setting
        limits = QueueSettings()
    return limit_findings(file, limits.wait_s_max.model_dump(), limits.hold_s_max.model_dump())


def _compare(file: PoolFile, path: Path | None, home: Path | None, database_url: str | None) -> _Comparison:
    plan, why_no_plan, workers, why_no_workers = None, "", None, ""
    try:
        with open_desk(path, home, database_url) as desk:
            plan = desk.plan(file)
    except SluiceError as error:
        why_no_plan = str(error)
    try:
        workers = asyncio.run(_workers(load_settings(config=path, home=home), file))
    except (SluiceError, httpx.HTTPError, ValueError) as error:
        why_no_workers = str(error) or type(error).__name__
    return _Comparison(plan, why_no_plan, workers, why_no_workers)


async def _workers(settings: Settings, file: PoolFile) -> dict[str, Any]:
    """Count the workers that a gateway knows, by pool and state; *lacks* are names of a pool that none knows."""
    url, token = find_gateway(settings)
    pools: dict[str, Any] = {}
    async with GatewayClient(url, token) as client:
        for worker in await client.workers():
            pool = pools.setdefault(worker["pool"], {"states": Counter(), "known": set()})
            pool["states"][worker["state"]] += 1
            pool["known"].update(worker["models"])
    for name, pool in pools.items():
        known = pool.pop("known")
        serves = file.pools[name].serves if name in file.pools else ()
        pool["lacks"] = [each for each in serves if each not in known]
    return pools


def setting_words(name: str) -> str:
    """Say what the setting of that dotted name does, and its default; empty if there is none."""
    *sections, last = name.split(".")
    kind: type[BaseModel] | None = reduce(_section, sections, Settings)
    field = kind.model_fields.get(last) if kind is not None else None
    if field is None or not field.description:
        return ""
    default = "" if field.default_factory or field.default in (None, "") else f" Default: {field.default}."
    return f"{field.description}{default}"


def _section(kind: type[BaseModel] | None, name: str) -> Any:
    field = kind.model_fields.get(name) if kind is not None else None
    below = field.annotation if field else None
    return below if isinstance(below, type) and issubclass(below, BaseModel) else None


def _print(file: PoolFile, findings: list[Finding], compared: _Comparison) -> None:
    if lines := _lines(file):
        print_table(_COLUMNS, [asdict(line) | {"line": str(line.line)} for line in lines])
    for each in findings:
        typer.echo(f"{each.level.value}: {each}")
    typer.echo(_verdict(file, findings))
    if compared.plan:
        last = compared.plan.declared.applied
        typer.echo(
            f"\nAgainst what is declared (version {last.number}, by {last.who}):" if last else "\nNever applied:"
        )
        print_plan(compared.plan)
    else:
        typer.echo(f"\nNot compared with what is declared: {compared.why_no_plan}")
    if compared.workers is None:
        typer.echo(f"Not compared with what runs: {compared.why_no_workers}")
    else:
        print_table(("pool", "declared", "runs", "does_not_know"), _against_workers(file, compared.workers))


def _verdict(file: PoolFile, findings: list[Finding]) -> str:
    errors = sum(each.level is Level.ERROR for each in findings)
    declared = f"{_many(len(file.pools), 'pool')}, {_many(len(file.names), 'name')}"
    return f"{file.file}: {declared}; {_many(errors, 'error')}, {_many(len(findings) - errors, 'warning')}."


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _against_workers(file: PoolFile, workers: Mapping[str, Any]) -> list[dict[str, str]]:
    """Put the workers that are declared beside those that run, pool by pool; they know names from their start on."""
    rows = []
    for name in sorted({*file.pools, *workers}):
        pool = file.pools.get(name)
        declared = f"{pool.workers_min} to {pool.workers_max}" if pool else "not declared"
        live = workers.get(name, {"states": {}, "lacks": []})
        runs = ", ".join(f"{count} {state}" for state, count in sorted(live["states"].items()))
        lacks = ", ".join(live["lacks"])
        rows.append({"pool": name, "declared": declared, "runs": runs or "none", "does_not_know": lacks})
    return rows


def _print_json(file: PoolFile, findings: list[Finding], compared: _Comparison) -> None:
    print_json(
        {
            "file": file.file,
            "digest": file.digest,
            "ok": not _errors(findings),
            "findings": [_finding_to_json(each) for each in findings],
            "lines": [asdict(line) for line in _lines(file)],
            "plan": plan_to_json(compared.plan) if compared.plan else None,
            "plan_missing": compared.why_no_plan,
            "workers": compared.workers,
            "workers_missing": compared.why_no_workers,
        }
    )


def _finding_to_json(finding: Finding) -> dict[str, Any]:
    return {
        "level": finding.level.value,
        "line": finding.spot.line,
        "column": finding.spot.column,
        "name": finding.what,
        "message": finding.message,
    }
