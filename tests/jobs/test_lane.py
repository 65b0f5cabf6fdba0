"""The async lane from a client's side: a ticket at once, the answer later, as often as it likes, billed once."""

import asyncio
import json

import httpx
import pytest

from gateway.control.keys import create_key
from gateway.control.tenants import create_tenant
from gateway.core.sse import DONE, last_usage
from gateway.stores.sql_directory import SqlDirectory
from tests.jobs.conftest import BODY, PATH, client_of
from tests.waiting import until

pytestmark = pytest.mark.redis

IMPATIENT = {"hold_s_max": {"standard": 0.1}}
LONG = BODY | {"max_tokens": 4000}


async def only_event(path):
    [event] = (await path.events()).values()
    return event


async def test_a_request_that_prefers_it_gets_a_ticket_at_once_and_its_answer_later(start_lane):
    async with start_lane() as (path, client):
        answer = await client.submit()
        ticket = answer.json()
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "respond-async"
        assert answer.headers["location"] == ticket["status_url"] == f"/v1/queue/{ticket['id']}"
        assert answer.headers["x-request-id"] == ticket["id"]
        assert (ticket["object"], ticket["status"]) == ("queue.ticket", "queued")
        await client.until(ticket, "completed")
        results = [await client.result(ticket) for _ in range(3)]
        events = await path.events()
    assert {result.content for result in results} == {results[0].content}
    usage = results[0].json()["usage"]
    assert results[0].status_code == 200
    assert results[0].headers["x-sluice-worker"] in {"w0", "w1"}
    assert results[0].headers["x-request-id"] == ticket["id"]
    assert set(events) == {ticket["id"]}, "the job's event is the only one"
    event = events[ticket["id"]]
    assert (event["completion_tokens"], event["prompt_tokens"]) == (20, usage["prompt_tokens"])
    assert (event["outcome"], event["flag"], event["attempts"]) == ("completed", "exact", 1)


async def test_a_stream_is_kept_whole_as_the_events_that_its_client_would_have_read(start_lane):
    async with start_lane() as (path, client):
        ticket = await client.ticket(BODY | {"stream": True, "stream_options": {"include_usage": True}})
        await client.until(ticket, "completed")
        result = await client.result(ticket)
        event = await only_event(path)
    assert result.headers["content-type"].startswith("text/event-stream")
    assert result.content.startswith(b"data: ")
    assert result.content.endswith(DONE)
    assert last_usage(result.content).completion == event["completion_tokens"] == 20
    assert event["is_stream"]


async def test_a_text_completion_is_left_for_later_like_a_chat(start_lane):
    async with start_lane() as (path, client):
        ticket = await client.ticket({"model": "tiny", "prompt": "a b c", "max_tokens": 9, "ignore_eos": True})
        await client.until(ticket, "completed")
        result = (await client.result(ticket)).json()
        event = await only_event(path)
    assert result["object"] == "text_completion"
    assert (event["prompt_tokens"], event["completion_tokens"], event["flag"]) == (3, 9, "exact")


async def test_a_client_that_lost_its_connection_gets_its_answer_by_the_idempotency_key(start_lane):
    """It never saw the ticket; the same request with the same key gives the same one, and only one job was run."""
    async with start_lane() as (path, client):
        async with client_of(path.url, path.key) as losing:
            lost = await losing.submit(idempotency_key="order-7")
        ticket = await client.ticket(idempotency_key="order-7")
        assert ticket["id"] == lost.json()["id"]
        await client.until(ticket, "completed")
        assert (await client.ticket(idempotency_key="order-7"))["status"] == "completed"
        assert len(await path.events()) == 1
        other = await client.submit(BODY | {"max_tokens": 3}, idempotency_key="order-7")
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
        assert not [*(path.gateway._objects.folder / "requests").iterdir()], "a body outlived its job"


async def test_the_preference_is_read_among_others_and_a_request_without_it_is_answered_as_ever(start_lane):
    async with start_lane() as (_, client):
        assert (await client.submit(prefer="wait=5, Respond-Async; x=1")).status_code == 202
        assert (await client.submit(prefer="respond-asynchronously")).status_code == 200
        assert (await client.http.get("/v1/models", headers={"prefer": "respond-async"})).status_code == 200


async def test_what_is_wrong_with_a_request_is_said_at_once_and_metered(start_lane):
    async with start_lane() as (path, client):
        refusals = [
            (await client.submit({"model": "tiny"}), 400, "invalid_request"),
            (await client.submit(BODY | {"model": "huge"}), 404, "model_not_found"),
            (await client.submit(authorization="Bearer sk-sluice-wrong"), 401, "invalid_api_key"),
            (await client.submit(x_sluice_class="royal"), 400, "invalid_request"),
            (await client.submit(x_sluice_class="interactive"), 403, "class_not_allowed"),
            (await client.submit(idempotency_key="k" * 256), 400, "invalid_request"),
            (await client.submit(x_webhook_url="https://example.com/"), 400, "invalid_request"),  # no secret is set
        ]
        for answer, status, code in refusals:
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert len(await path.events()) == len(refusals)


async def test_without_redis_jobs_are_refused_as_unavailable(start_path):
    async with start_path(count=1) as path, client_of(path.url, path.key) as client:
        answer = await client.submit()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "async_unavailable")
        assert (await only_event(path))["outcome"] == "async_unavailable"
        assert (await client.http.get("/v1/queue/req_" + "0" * 32)).status_code == 404


async def test_position_and_eta_are_told_while_a_job_waits_and_its_result_is_not_ready(start_lane):
    async with start_lane(count=1, jobs={"concurrency": 1}) as (_, client):
        running = await client.ticket(LONG)
        await client.until(running, "running")
        next_one, *waiting = [await client.ticket(LONG), *[await client.ticket() for _ in range(3)]]
        stands = [await client.status(ticket) for ticket in (next_one, *waiting)]
        assert [status["position"] for status in stands] == [1, 2, 3, 4]
        assert (await client.status(running))["position"] is None
        await client.http.delete(running["status_url"])
        running = next_one
        await client.until(running, "running")
        first, *_, last = [await client.status(ticket) for ticket in waiting]
        assert 0 < first["eta_s"] < last["eta_s"]
        early = await client.result(waiting[0])
        assert (early.status_code, early.json()["error"]["code"]) == (409, "not_ready")
        assert 1 <= int(early.headers["retry-after"]) <= 60
        await client.http.delete(running["status_url"])
        for ticket in waiting:
            assert (await client.until(ticket, "completed"))["position"] is None


async def test_tenants_take_turns_and_classes_go_by_urgency(start_lane):
    """One tenant submitted all its jobs first, a batch job before its others: still the other one's is second."""
    async with start_lane(count=1, jobs={"concurrency": 1}) as (path, client):
        running = await client.ticket(LONG)
        await client.until(running, "running")
        batch = await client.ticket(x_sluice_class="batch")
        own = [await client.ticket() for _ in range(3)]
        async with client_of(path.url, second_tenant(path)) as other:
            theirs = await until_accepted(other)
            positions = [(await client.status(ticket))["position"] for ticket in (*own, batch)]
            assert (positions, (await other.status(theirs))["position"]) == ([1, 3, 4, 5], 2)
            await client.http.delete(running["status_url"])
            await client.until(batch, "completed")
        ended = {row["id"]: row["ended_ms"] for row in (await path.events()).values()}
    order = sorted((ticket["id"] for ticket in (*own, batch, theirs)), key=ended.__getitem__)
    assert order == [own[0]["id"], theirs["id"], own[1]["id"], own[2]["id"], batch["id"]]


async def test_another_tenant_sees_no_job_of_ours(start_lane):
    async with start_lane() as (path, client):
        ticket = await client.ticket(idempotency_key="mine")
        await client.until(ticket, "completed")
        async with client_of(path.url, second_tenant(path)) as other:
            theirs = await until_accepted(other, idempotency_key="mine")
            assert theirs["id"] != ticket["id"]
            answers = [
                await other.http.get(ticket["status_url"]),
                await other.http.get(ticket["result_url"]),
                await other.http.delete(ticket["status_url"]),
                await other.http.get("/v1/queue/req_" + "0" * 32),
                await other.http.get("/v1/queue/..%2f..%2fdirectory.json/result"),
            ]
        assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(404, "job_not_found")}
        assert (await client.http.post(ticket["status_url"])).status_code == 405
        assert (await client.http.delete(ticket["result_url"])).status_code == 405


async def test_an_engines_refusal_is_the_result_of_a_failed_job(start_lane):
    async with start_lane() as (path, client):
        ticket = await client.ticket(BODY | {"max_tokens": 10**9})
        await client.until(ticket, "failed")
        result = await client.result(ticket)
        assert result.status_code == 400
        assert "error" in result.json()
        event = await only_event(path)
    assert (event["id"], event["outcome"], event["completion_tokens"]) == (ticket["id"], "engine_refused", 0)


async def test_a_job_whose_workers_fail_is_tried_again_and_billed_for_the_run_that_answered(start_lane):
    async with start_lane(count=1) as (path, client):
        await path.engines[0].fault(crash_next=1, crash_after_tokens=7)
        ticket = await client.ticket(BODY | {"stream": True})
        await client.until(ticket, "completed")
        event = await only_event(path)
    assert (event["outcome"], event["completion_tokens"], event["flag"]) == ("completed", 20, "exact")


async def test_a_job_whose_workers_always_fail_ends_as_failed_and_costs_nothing(start_lane):
    async with start_lane(count=1, jobs={"attempts_max": 2}) as (path, client):
        await path.engines[0].fault(crash_next=-1, crash_after_tokens=7)
        ticket = await client.ticket(BODY | {"stream": True})
        await client.until(ticket, "failed")
        result = await client.result(ticket)
        event = await only_event(path)
    assert (result.status_code, result.json()["error"]["code"]) == (502, "upstream_failed")
    assert (event["outcome"], event["completion_tokens"], event["flag"]) == ("upstream_failed", 0, "none")
    assert event["undelivered_tokens"] == 7


async def test_a_job_waits_for_a_worker_as_long_as_its_limit_and_then_fails(start_lane):
    async with start_lane(count=0, jobs={"limit_s": 1, "lease_s": 1}, queue=IMPATIENT) as (path, client):
        ticket = await client.ticket()
        await client.until(ticket, "failed")
        result = await client.result(ticket)
        assert result.status_code in {429, 503}
        assert (await only_event(path))["completion_tokens"] == 0


async def test_a_job_is_given_back_while_no_worker_comes_and_run_when_one_does(start_lane):
    async with start_lane(count=1, queue=IMPATIENT) as (path, client):
        await path.gateway._roster.forget("w0")
        ticket = await client.ticket()
        await until(lambda: path.gateway._lane.runner._paused_until_s)
        assert (await client.status(ticket))["status"] == "queued"
        await path.beat(0)
        await client.until(ticket, "completed")


async def test_a_key_that_was_revoked_before_its_job_began_runs_nothing(start_lane):
    async with start_lane(count=1, jobs={"concurrency": 1}) as (path, client):
        running = await client.ticket(LONG)
        await client.until(running, "running")
        doomed_key = new_key(path, "acme")
        async with client_of(path.url, doomed_key) as doomed:
            ticket = await until_accepted(doomed)
            revoke(path, doomed_key)
            async with asyncio.timeout(5):
                while (await doomed.http.get("/v1/models")).status_code == 200:
                    await asyncio.sleep(0.02)
        await client.http.delete(running["status_url"])
        await client.until(ticket, "failed")
        result = await client.result(ticket)
    assert (result.status_code, result.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_results_and_bodies_are_private_and_a_result_is_gone_after_its_time(start_lane):
    async with start_lane(jobs={"result_kept_s": 1}) as (path, client):
        ticket = await client.ticket()
        done = await client.until(ticket, "completed")
        assert (await client.result(ticket)).status_code == 200
        folder = path.gateway._objects.folder
        [result] = (folder / "results").iterdir()
        assert {oct(place.stat().st_mode & 0o777) for place in (folder, result.parent)} == {"0o700"}
        assert oct(result.stat().st_mode & 0o777) == "0o600"
        assert not [*(folder / "requests").iterdir()]

        async with asyncio.timeout(5):
            while (await client.http.get(ticket["status_url"])).status_code != 404:
                await asyncio.sleep(0.05)
        assert done["expires_at"] >= ticket["expires_at"]
        assert (await client.result(ticket)).status_code == 404
        await path.gateway._objects.sweep()
        assert not result.exists()


async def test_bodies_and_results_are_never_in_redis(start_lane, redis_url):
    import redis

    secret = "a word that nobody else says"
    async with start_lane() as (_, client):
        ticket = await client.ticket(BODY | {"messages": [{"role": "user", "content": secret}]})
        await client.until(ticket, "completed")
        answer = (await client.result(ticket)).json()["choices"][0]["message"]["content"]
        with redis.Redis.from_url(redis_url, decode_responses=True) as store:
            dumped = json.dumps([dump(store, key) for key in store.scan_iter("*job*")])
    assert ticket["id"] in dumped
    assert secret not in dumped
    assert answer
    assert answer not in dumped


async def test_a_full_line_of_jobs_refuses_and_keeps_no_body(start_lane):
    async with start_lane(count=1, jobs={"concurrency": 1, "waiting_max": 1}) as (path, client):
        running = await client.ticket(LONG)
        await client.until(running, "running")
        await client.ticket()
        refused = await client.submit()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert len([*(path.gateway._objects.folder / "requests").iterdir()]) == 2


async def test_many_jobs_end_completely_though_leases_are_renewed_all_the_time(start_lane):
    """A renewal may meet a job in the instant between its end in the store and its end here."""
    async with start_lane(jobs={"lease_s": 1}) as (path, client):
        runner = path.gateway._lane.runner
        storm = asyncio.create_task(renew_all_the_time(runner))
        tickets = await asyncio.gather(*(client.ticket(BODY | {"max_tokens": 1}) for _ in range(100)))
        for ticket in tickets:
            await client.until(ticket, "completed")
        await until(lambda: not runner._runs)
        storm.cancel()
        metrics = (await client.http.get("/metrics")).text
        assert set(await path.events()) == {ticket["id"] for ticket in tickets}
        assert not [*(path.gateway._objects.folder / "requests").iterdir()]
    assert 'sluice_jobs_total{outcome="completed"} 100.0' in metrics


async def renew_all_the_time(runner):
    while True:
        await runner._renew()
        await asyncio.sleep(0)  # with no job to renew it awaits nothing


async def test_metrics_count_jobs(start_lane):
    async with start_lane(count=1, jobs={"concurrency": 1}) as (_, client):
        await client.until(await client.ticket(BODY | {"max_tokens": 10**9}), "failed")
        running = await client.ticket(LONG)
        await client.until(running, "running")
        await client.ticket()
        async with asyncio.timeout(5):
            while 'sluice_jobs_waiting{pool="tiny"} 1.0' not in (text := (await client.http.get("/metrics")).text):
                await asyncio.sleep(0.05)
    assert 'sluice_jobs_total{outcome="failed"} 1.0' in text


def dump(store, key):
    kind = store.type(key)
    read = {"hash": store.hgetall, "string": store.get, "stream": store.xrange, "set": lambda k: [*store.smembers(k)]}
    return [key, read[kind](key) if kind in read else store.dump(key) if kind == "none" else kind]


def new_key(path, tenant) -> str:
    _, secret = create_key(SqlDirectory(path.gateway._database), tenant, now_ms=1)
    return secret


def second_tenant(path) -> str:
    create_tenant(SqlDirectory(path.gateway._database), "other")
    return new_key(path, "other")


def revoke(path, secret) -> None:
    from gateway.control.keys import revoke_key
    from gateway.core.ids import digest

    directory = SqlDirectory(path.gateway._database)
    [found] = [key for key in directory.keys("acme") if key.digest == digest(secret)]
    revoke_key(directory, found.id)


async def until_accepted(client, **headers) -> dict:
    """Submit as soon as the gateway has heard of the key."""
    async with asyncio.timeout(5):
        while (answer := await client.submit(**headers)).status_code == httpx.codes.UNAUTHORIZED:
            await asyncio.sleep(0.02)
    assert answer.status_code == 202, f"{PATH}: {answer.text}"
    return answer.json()
