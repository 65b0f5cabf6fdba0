"""
What the ledger takes: events per second into PostgreSQL and SQLite, and a report over a month from its rollups.

*Shipping*: batches of 1000 events through `SqlJournal.append` with all that follows from them (rating, rollups by hour
and day, budgets), commits on disk; 1,200 lines, so that a batch touches about 700 rollup rows of each kind. By one
gateway, and by two processes at once into the same PostgreSQL. CPU is that of the client and of the server together.

*Month*: events made inside PostgreSQL by generate_series, and their rollups by the same grouping; then the report of
that month by tenant and model, in UTC and in Asia/Shanghai, with its amounts; held against the sum of rows on one day.
`python -m tests.bench.ledger 20000000` runs the month alone, with so many events.
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import psutil
from sqlalchemy import text

from gateway.core.money import AMOUNT_NANO_MAX
from gateway.core.statement import UNRATED, statement
from gateway.core.zones import first_moment, load_zone
from gateway.finance.reports import UsageQuery, usage_report
from gateway.stores.database import Database
from gateway.stores.schema import LINE_TEXTS, USAGE_MEASURES, USAGE_TOKENS, migrate
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_partitions import Partitions
from gateway.stores.sql_rollups import DAY_MS, HOUR_MS, line_id
from tests.meter_events import event
from tests.prices import OLD, PRICES
from tests.servers.postgres_server import PostgresServer

RUNS = 3
BATCH, BATCHES = 1000, 40
MONTH_EVENTS = 200_000
TENANTS, MODELS, KEYS = 100, 3, 4
TIMEOUT_S = 3600.0


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives medians over RUNS runs, with the spread of each."""
    server = PostgresServer(folder, is_durable=True)
    server.start()
    try:
        runs = [_one_run(server, folder / f"{number}.db", number) for number in range(RUNS)]
    finally:
        server.stop()
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


def _one_run(server: PostgresServer, file: Path, number: int) -> dict[str, float]:
    sqlite, alone, shared = f"sqlite:///{file}", *(server.new_database(f"{kind}_{number}") for kind in ("one", "two"))
    for url in (sqlite, alone, shared):
        migrate(url)
        SqlDirectory(Database(url)).put_prices(PRICES)
    figures = {f"sqlite_{name}": value for name, value in _ship([sqlite], None).items()}
    figures |= {f"postgres_{name}": value for name, value in _ship([alone], server).items()}
    figures["postgres_two_gateways_events_per_s"] = _ship([shared, shared], server)["events_per_s"]
    return figures | measure_month(server.new_database(f"month_{number}"), MONTH_EVENTS)


def _ship(urls: list[str], server: PostgresServer | None) -> dict[str, float]:
    """Have a process for each of *urls* append BATCHES batches, all beginning together."""
    programs = [_shipper(url, seed) for seed, url in enumerate(urls)]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    before_s, started = _server_cpu_s(server), time.monotonic()
    answers = [json.loads(program.communicate("go\n")[0]) for program in programs]
    wall_s, server_s = time.monotonic() - started, _server_cpu_s(server) - before_s
    events = BATCH * BATCHES * len(urls)
    return {
        "events_per_s": events / wall_s,
        "cpu_us_per_event": (sum(answers) + server_s) / events * 1e6,
    }


def _shipper(url: str, seed: int) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-m", "tests.bench.ledger", "ship", url, str(seed)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ship(url: str, seed: int) -> None:
    """Be one gateway's shipper: make the batches, wait for the word, append them; prints the CPU seconds it took."""
    dice = random.Random(seed)
    batches = [[_event(dice, seed, at * BATCH + each) for each in range(BATCH)] for at in range(BATCHES + 1)]
    journal = SqlJournal(Database(url, timeout_s=TIMEOUT_S))
    journal.append(batches.pop())
    print("ready", flush=True)
    sys.stdin.readline()
    before_s = _own_cpu_s()
    for batch in batches:
        assert journal.append(batch).new == BATCH
    print(_own_cpu_s() - before_s)


def _event(dice: random.Random, gateway: int, number: int):
    at_ms, tenant = 1_790_000_000_000 + number, dice.randrange(TENANTS)
    who = {"tenant": f"tenant_{tenant}", "key": f"key_{tenant}_{dice.randrange(KEYS)}", "gateway": f"g{gateway}"}
    tokens = {"prompt_tokens": dice.randrange(5, 2000), "cached_tokens": 4, "completion_tokens": dice.randrange(5, 900)}
    model = f"model_{dice.randrange(MODELS)}"
    return event(
        id=f"req_{at_ms:012x}{gateway:04x}{number:016x}", arrived_ms=at_ms, price=OLD.id, model=model, **who, **tokens
    )


def measure_month(url: str, events: int) -> dict[str, float]:
    """Make a month of *events* and report it; gives how long that took and how many rows the rollups have."""
    migrate(url)
    database = Database(url, timeout_s=TIMEOUT_S)
    SqlDirectory(database).put_prices(PRICES)
    began = time.monotonic()
    _fill(database, events)
    made_s = time.monotonic() - began
    utc_s, shanghai_s, by_day_s = (
        _report_s(database, zone, by)
        for zone, by in (
            ("UTC", ("tenant", "model")),
            ("Asia/Shanghai", ("tenant", "model")),
            ("Asia/Shanghai", ("day",)),
        )
    )
    _assert_a_day_is_the_sum_of_its_rows(database)
    rows = _rows(database)
    database.close()
    return {
        "month_made_s": made_s,
        "month_report_utc_s": utc_s,
        "month_report_shanghai_s": shanghai_s,
        "month_report_by_day_shanghai_s": by_day_s,
        "month_events": float(events),
        "month_hour_rows": float(rows["usage_hours"]),
        "month_day_rows": float(rows["usage_days"]),
    }


def _month(zone: str) -> tuple[int, int]:
    first, last = (first_moment(date(2026, month, 1), load_zone(zone)) for month in (9, 10))
    return first, last


def _fill(database: Database, events: int) -> None:
    """Make events of the month, and a day more on each side, and sum them as the ledger would."""
    first, last = (end + side * DAY_MS for end, side in zip(_month("UTC"), (-1, 1), strict=True))
    Partitions(database).ensure(range(first, last, DAY_MS))
    values = {"events": events, "first": first, "step": (last - first) / events, "price": OLD.id}
    with database.writing() as connection:
        connection.execute(text(_EVENTS), values)
        for table, unit_ms in (("usage_hours", HOUR_MS), ("usage_days", DAY_MS)):
            connection.execute(text(f"CREATE TEMP TABLE sums AS {_SUMS.format(unit_ms=unit_ms)}"))
            named = connection.execute(text(f"SELECT DISTINCT {_LINE} FROM sums")).all()
            lines = [{"id": line_id(tuple(row)), **row._asdict()} for row in named]
            connection.execute(text(_LINES), lines)
            connection.execute(text(_ROLLUP.format(table=table)))
            connection.execute(text("DROP TABLE sums"))
    with database.writing() as connection:
        connection.execute(text("ANALYZE"))


_LINE = ", ".join((*LINE_TEXTS, "tier"))
_COUNTED = ", ".join((*USAGE_TOKENS, "images", "audio_ms", "cost_nano"))
# Tenants differ in size by the square of a die; prices as OLD's first tier, so that a cost is three products.
_EVENTS = """
INSERT INTO meter_events
SELECT 'req_' || lpad(to_hex(at), 12, '0') || lpad(to_hex(n), 20, '0'), 'tenant_' || tenant, 'default',
    'key_' || tenant || '_' || n % 4, 'model_' || n % 3, 'model_' || n % 3, 'w1', 'g1', 'standard', outcome, 200, flag,
    true, 1, at, at + 900, 0, 30, prompt, prompt / 2, completion, 0, 0, :price, 1, 0, 0, 0,
    (prompt - prompt / 2) * 300 + prompt / 2 * 60 + completion * 600, 'CNY'
FROM (
    SELECT n, :first + (n * CAST(:step AS float8))::bigint AS at, (100 * dice * dice)::int AS tenant,
        (n * 7919 % 499)::bigint AS prompt, (n * 104729 % 900)::bigint AS completion,
        CASE WHEN n % 50 = 0 THEN 'client_gone' ELSE 'completed' END AS outcome,
        CASE WHEN n % 50 = 0 THEN 'delivered' ELSE 'exact' END AS flag
    FROM (SELECT n, random() AS dice FROM generate_series(CAST(0 AS bigint), :events - 1) AS n) AS thrown
) AS made
"""
_SUMS = f"""
SELECT arrived_ms / {{unit_ms}} * {{unit_ms}} AS at_ms, {_LINE}, count(*) AS requests,
    {", ".join(f"sum({name})::bigint AS {name}" for name in USAGE_MEASURES[1:])}
FROM meter_events GROUP BY 1, {_LINE}
"""
_LINES = f"""
INSERT INTO usage_lines (id, {_LINE}) VALUES (CAST(:id AS uuid), {", ".join(f":{name}" for name in _LINE.split(", "))})
ON CONFLICT DO NOTHING
"""
_ROLLUP = f"""
INSERT INTO {{table}} (at_ms, line, requests, {_COUNTED})
SELECT at_ms, usage_lines.id, requests, {_COUNTED} FROM sums JOIN usage_lines USING ({_LINE})
"""


def _report_s(database: Database, zone: str, by: tuple[str, ...]) -> float:
    first, last = _month(zone)
    began = time.monotonic()
    report = usage_report(
        SqlJournal(database), UsageQuery(from_ms=first, to_ms=last, zone=load_zone(zone), group_by=by)
    )
    took_s = time.monotonic() - began
    assert report.amounts_nano["CNY"] == sum(row.amount_nano for row in report.rows) > 0
    return took_s


def _assert_a_day_is_the_sum_of_its_rows(database: Database) -> None:
    first = _month("Asia/Kathmandu")[0] + 10 * DAY_MS
    sums = SqlJournal(database).usage_of_parts([(first, first + DAY_MS)], ("tenant", "key", "model"))[0]
    query = f"SELECT count(*), {', '.join(f'sum({name})' for name in _COUNTED.split(', '))} FROM meter_events"
    with database.reading() as connection:
        row = connection.execute(
            text(f"{query} WHERE arrived_ms >= :a AND arrived_ms < :b"), {"a": first, "b": first + DAY_MS}
        )
        expected = list(map(int, row.one()))
    assert [sum(getattr(each, name) for each in sums) for name in USAGE_MEASURES] == expected
    stated = statement(sums, {OLD.id: OLD})
    assert stated.amounts_nano == {"CNY": expected[-1]}, "these prices leave nothing to round"
    assert 0 < expected[-1] < AMOUNT_NANO_MAX
    assert all(each.tier != UNRATED for each in sums)


def _rows(database: Database) -> dict[str, int]:
    with database.reading() as connection:
        tables = ("meter_events", "usage_hours", "usage_days", "usage_lines")
        return {table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in tables}


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _server_cpu_s(server: PostgresServer | None) -> float:
    if server is None:
        return 0.0
    postmaster = psutil.Process(server.pid)
    living = [process.cpu_times() for process in postmaster.children()]
    ended = postmaster.cpu_times()  # its backends end with their connections, which the shippers close
    return sum(each.user + each.system for each in living) + ended.children_user + ended.children_system


def main() -> None:
    """Run the month alone, with the given number of events, and print its figures."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(Path(folder))
        server.start()
        try:
            print(json.dumps(measure_month(server.new_database("month"), int(sys.argv[1])), indent=2))
        finally:
            server.stop()


if __name__ == "__main__":
    if sys.argv[1] == "ship":
        ship(sys.argv[2], int(sys.argv[3]))
    else:
        main()
