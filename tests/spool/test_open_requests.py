"""A host is lost with its disk: what was open on it is settled from the database, once."""

import asyncio
import time

import pytest
from sqlalchemy import select, update

from gateway.core.usage import Usage
from gateway.errors import StoreUnavailable
from gateway.stores.open_shipper import OpenShipper
from gateway.stores.schema import open_clock, open_requests
from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from gateway.stores.spool_open import OpenRequests
from gateway.stores.sql_open import SqlOpenRequests
from tests.meter_events import event, opened
from tests.spool.test_spool import failing_disk
from tests.waiting import until

AFTER_S = 0.1
LEASE_S = 60


class Host:
    """A gateway's spool and shipper on a disk of its own."""

    def __init__(self, sql, root, name, after_s):
        self.spool = FileSpool(root, name)
        table = SqlOpenRequests(sql.database, name, lease_s=LEASE_S)
        opens = OpenShipper(table, self.spool.requests, after_s=after_s, lease_s=LEASE_S)
        self.shipper = Shipper(self.spool, sql.journal, opens, interval_s=0.01, adopt_every_s=0.02)

    async def stop(self):
        await self.shipper.aclose()
        await self.spool.aclose()

    async def lose_the_database(self):
        """Stop shipping for good, as if this host had no network any more."""
        await self.shipper.aclose(limit_s=0)


@pytest.fixture
async def start(sql, tmp_path):
    async def start(name, after_s=AFTER_S):
        host = Host(sql, tmp_path / name, name, after_s)
        await host.shipper.start()
        return host

    return start


def table(sql):
    """The usage of each open request that the database knows."""
    with sql._other.reading() as connection:
        return {row.id: row.usage for row in connection.execute(select(open_requests))}


def let_leases_end(sql):
    """Have the clock of leases run for as long as they last, as the passes of living gateways make it."""
    with sql._other.writing() as connection:
        connection.execute(update(open_clock).values(at_ms=open_clock.c.at_ms + LEASE_S * 1000))


async def test_a_long_request_is_in_the_database_with_its_progress_until_it_is_closed(start, sql):
    host = await start("g1")
    await host.spool.open(opened(1))
    await until(lambda: table(sql) == {opened(1).id: "[0, 0, 0, 0]"})
    host.spool.progress(opened(1).id, Usage(10, 5, 4, 1))
    await until(lambda: table(sql) == {opened(1).id: "[10, 5, 4, 1]"})
    assert (len(host.spool.requests), host.spool.requests.shipped_count) == (1, 1)
    await host.spool.close(event(1))
    await until(lambda: not host.spool.requests.shipped_count)
    assert table(sql) == {}
    assert sql.ids() == [event(1).id]
    assert len(host.spool.requests) == 0
    await host.stop()


async def test_a_short_request_costs_the_database_nothing(start, sql):
    host = await start("g1", after_s=10)
    for number in range(50):
        await host.spool.open(opened(number))
        await host.spool.close(event(number))
    await until(lambda: len(sql.ids()) == 50)
    assert (table(sql), host.spool.requests.shipped_count) == ({}, 0)
    await host.stop()


async def test_a_request_that_the_disk_has_not_got_is_not_told_to_the_database(tmp_path):
    """If its gateway died now nobody would know it, and it would be open there for as long as leases last."""
    spool = FileSpool(tmp_path / "spool", "g1")
    with failing_disk():
        with pytest.raises(StoreUnavailable):
            await spool.open(opened(1))
        assert not spool.requests.due(time.monotonic() + 1, after_s=0, renew_s=LEASE_S)
    await spool.flush()
    assert spool.requests.due(time.monotonic() + 1, after_s=0, renew_s=LEASE_S)
    await spool.close(event(1))
    assert len(spool.requests) == 0
    await spool.aclose()


async def test_a_request_that_the_database_took_without_a_word_is_taken_out_as_any_other(sql, tmp_path):
    spool = FileSpool(tmp_path / "spool", "g1")
    opens = OpenShipper(
        SqlOpenRequests(sql.database, "g1", lease_s=LEASE_S), spool.requests, after_s=AFTER_S, lease_s=LEASE_S
    )
    await spool.open(opened(1))
    await asyncio.sleep(AFTER_S)

    async def do(work, *args):
        return work(*args)

    async def do_and_hear_nothing(work, *args):
        work(*args)
        raise StoreUnavailable("database", "no answer within the time limit")

    with pytest.raises(StoreUnavailable):
        await opens.ship(do_and_hear_nothing)
    assert table(sql)
    await spool.close(event(1))
    await opens.forget(do, [event(1)], are_ours=True)
    assert table(sql) == {}
    await spool.aclose()


async def test_another_gateway_settles_what_a_lost_host_had_open_once(start, sql):
    lost, first, second = [await start(name) for name in ("lost", "g1", "g2")]
    for number in range(10):
        await lost.spool.open(opened(number))
    lost.spool.progress(opened(1).id, Usage(10, 5, 4, 1))
    await until(lambda: len(table(sql)) == 10 and "[10, 5, 4, 1]" in table(sql).values())
    await lost.lose_the_database()
    assert sql.ids() == []
    let_leases_end(sql)
    await until(lambda: table(sql) == {})
    rows = {row["id"]: row for row in sql.rows()}
    assert rows.keys() == {event(number).id for number in range(10)}
    assert {row["outcome"] for row in rows.values()} == {"interrupted"}
    assert [rows[event(1).id][name] for name in ("flag", "prompt_tokens", "completion_tokens")] == [
        "interrupted",
        10,
        5,
    ]
    assert rows[event(0).id]["flag"] == "none"
    assert first.shipper.opens.expired + second.shipper.opens.expired >= 10
    assert all(row["ended_ms"] >= row["arrived_ms"] for row in rows.values())
    for host in (first, second):
        await host.stop()
    await lost.spool.aclose()


async def test_a_host_that_turns_up_later_is_not_billed_twice_and_its_late_endings_are_counted(start, sql):
    lost, other = await start("lost"), await start("g1")
    for number in range(2):
        await lost.spool.open(opened(number))
        lost.spool.progress(opened(number).id, Usage(10, 5))
    await until(lambda: list(table(sql).values()) == ["[10, 5, 0, 0]"] * 2)
    await lost.lose_the_database()
    await lost.spool.close(event(0))
    await lost.spool.aclose()
    let_leases_end(sql)
    await until(lambda: len(sql.ids()) == 2)

    found = await start("lost")
    await until(lambda: not found.shipper.backlog_events)
    rows = sql.rows()
    assert [(row["outcome"], row["completion_tokens"]) for row in rows] == [("interrupted", 5)] * 2
    assert found.shipper.opens.late_closes == 1, "the other was not closed: it settles as it was settled"
    assert (found.shipper.replayed_events, found.shipper.recovered_events) == (2, 0)
    await found.stop()
    await other.stop()


async def test_a_spool_that_is_recovered_takes_its_open_requests_out_of_the_database(start, sql):
    dead = await start("g1")
    await dead.spool.open(opened(1))
    await until(lambda: table(sql))
    await dead.lose_the_database()
    await dead.spool.aclose()
    again = await start("g1")
    await until(lambda: sql.ids() == [event(1).id] and table(sql) == {})
    await again.stop()


async def test_an_outage_of_the_database_lets_nothing_expire(start, sql):
    """However long: nobody could renew, so the clock of leases stood still."""
    host, other = await start("g1"), await start("g2")
    await host.spool.open(opened(1))
    await until(lambda: table(sql))
    with sql.away():
        await until(lambda: not host.shipper.is_shipping)
    with sql._other.writing() as connection:
        connection.execute(update(open_clock).values(seen_ms=open_clock.c.seen_ms - 1000 * LEASE_S * 1000))
    host.spool.progress(opened(1).id, Usage(10, 7))
    await until(lambda: table(sql) == {opened(1).id: "[10, 7, 0, 0]"})
    assert sql.ids() == []
    await host.spool.close(event(1))
    await until(lambda: sql.ids() == [event(1).id])
    assert sql.rows()[0]["outcome"] == "completed"
    for each in (host, other):
        await each.stop()


async def test_requests_come_and_go_while_their_opens_are_shipped(start, sql):
    """None is left behind in the database, whichever of its two ways is faster."""
    host = await start("g1")

    async def request(number):
        await host.spool.open(opened(number))
        await asyncio.sleep(AFTER_S * (number % 20) / 10)
        await host.spool.close(event(number))

    await asyncio.gather(*(request(number) for number in range(300)))
    await until(lambda: len(sql.ids()) == 300)
    await until(lambda: table(sql) == {})
    assert {row["outcome"] for row in sql.rows()} == {"completed"}
    await host.stop()


def test_only_what_is_new_is_due():
    requests = OpenRequests()
    for number, now_s in ((1, 0.0), (2, 6.0)):
        requests.opened(opened(number), 0, now_s)
        requests.kept(opened(number).id)
    due = {"after_s": 5.0, "renew_s": 100.0}
    assert requests.due(4.9, **due) == []
    (first,) = requests.due(5.0, **due)
    requests.shipped([(first, first.usage)], now_s=5.0)
    assert requests.due(6.0, **due) == []
    requests.progressed(opened(1).id, Usage(10, 3), 100)
    assert [each.event.id for each in requests.due(6.0, **due)] == [opened(1).id]
    requests.progressed(opened(1).id, Usage(10, 2), 200)
    assert first.usage == Usage(10, 3), "the largest counts"
    requests.shipped([(first, first.usage)], now_s=6.0)
    assert requests.due(10.9, **due) == []
    assert requests.due(106.0, **due) == [first, *requests.due(11.0, **due)], "the lease of the quiet one is renewed"
