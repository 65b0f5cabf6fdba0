"""The operator's list of limits: GET /admin/v1/limits and `sluice limits list`, with what is used of each."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.control.tenants import create_tenant, suspend_tenant
from gateway.stores.sql_directory import SqlDirectory
from tests.servers.installation import ADMIN_TOKEN
from tests.servers.rules import a_limit, beside, chat, client_of, declare
from tests.waiting import until

BEARER = {"authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture(params=["memory", "redis"])
async def path(request, start_path):
    """A gateway that keeps what is held in its memory, or in Redis."""
    shared = {"redis_url": request.getfixturevalue("redis_url")} if request.param == "redis" else {}
    async with start_path(count=1, admin_token=ADMIN_TOKEN, **shared) as path:
        create_tenant(SqlDirectory(path.gateway._database), "other")
        yield path


@pytest.fixture
async def client(path):
    async with client_of(path) as client:
        yield client


@pytest.fixture
def sluice(path, monkeypatch):
    """Run `sluice limits list` beside the running gateway; gives its exit status and what it printed."""
    monkeypatch.setenv("SLUICE_ADMIN_TOKEN", ADMIN_TOKEN)

    async def run(*words: str, url: str = path.url) -> tuple[int, str]:
        home = str(path.gateway._settings.home)
        argv = ["limits", "list", "--home", home, "--url", url, *words]
        done = await asyncio.to_thread(CliRunner().invoke, app, argv)
        return done.exit_code, done.output

    return run


async def listed(client, tenant=""):
    answer = await client.get(f"/admin/v1/limits{tenant and f'?tenant={tenant}'}", headers=BEARER)
    assert answer.status_code == 200, answer.text
    return {each["id"]: each for each in answer.json()["data"]}


OF_MODEL = a_limit("concurrent", 9, id="of-model", scope="model", subject="tiny", tenant="")
OF_OTHER = a_limit("requests", 7, id="of-other", subject="other", tenant="other")


async def test_each_limit_of_each_subject_shows_what_is_used_and_left_of_it(path, client):
    await declare(path, a_limit("requests", 600), OF_MODEL, OF_OTHER)
    await chat(client)
    shown = await listed(client)
    of_tenant = shown["lim_requests"]
    assert (of_tenant["amount"], of_tenant["used"], of_tenant["left"]) == (600, 1, 599)
    assert 0 < of_tenant["clears_in_s"] <= 61
    assert (of_tenant["is_live"], of_tenant["is_shared"], of_tenant["why_unknown"]) == (True, True, "")
    assert [(shown[name]["used"], shown[name]["left"]) for name in ("of-model", "of-other")] == [(0, 9), (0, 7)]
    assert set(await listed(client, "other")) == {"of-other"}


async def test_what_binds_nobody_says_why_and_still_shows_its_use(path, client):
    await declare(path, OF_OTHER)
    suspend_tenant(SqlDirectory(path.gateway._database), "other")
    dead = (await listed(client))["of-other"]
    assert (dead["is_live"], dead["flaw"], dead["used"]) == (False, "tenant 'other' is suspended", 0)


async def test_the_command_shows_the_same_as_a_table_and_as_json(path, client, sluice):
    await declare(path, a_limit("requests", 612), OF_OTHER)
    await chat(client)
    status, table = await sluice()
    assert status == 0
    (line,) = (line for line in table.splitlines() if "lim_requests" in line)
    assert line.split() == ["lim_requests", "tenant", "acme", "–", "requests", "612", "1", "611", "yes", "–"]
    status, text = await sluice("--format", "json", "--tenant", "acme")
    (shown,) = json.loads(text)
    assert (status, shown["used"], shown["left"], shown["is_live"]) == (0, 1, 611, True)


@pytest.mark.parametrize(
    ("url", "token", "why"),
    [
        ("http://127.0.0.1:1", ADMIN_TOKEN, "the gateway at http://127.0.0.1:1 does not answer: "),
        ("", "wrong", " answers 401"),
    ],
)
async def test_without_a_gateway_that_tells_the_limits_are_listed_and_their_use_is_not(
    path, sluice, monkeypatch, url, token, why
):
    await declare(path, a_limit("requests", 600))
    monkeypatch.setenv("SLUICE_ADMIN_TOKEN", token)
    status, text = await sluice("--format", "json", url=url or path.url)
    (shown,) = json.loads(text)
    assert (status, shown["amount"], shown["used"], shown["left"]) == (0, 600, None, None)
    assert why in shown["why_unknown"]
    status, table = await sluice(url=url or path.url)
    assert status == 0
    assert "What is used is not known where there is a dash" in table


async def test_gateways_that_share_redis_tell_the_same_of_a_limit(start_path, redis_url):
    async with start_path(count=1, admin_token=ADMIN_TOKEN, redis_url=redis_url) as path, client_of(path) as client:
        await declare(path, a_limit("requests", 600))
        await chat(client)
        async with beside(path) as other, client_of(other) as elsewhere:
            assert (await listed(elsewhere))["lim_requests"]["used"] == 1


async def test_without_redis_a_gateway_shows_what_it_knows_and_says_so(start_path, redis_url, redis_server):
    async with start_path(count=1, admin_token=ADMIN_TOKEN, redis_url=redis_url) as path, client_of(path) as client:
        await declare(path, a_limit("requests", 600))
        with redis_server.frozen():
            await until(lambda: not path.gateway._holds.is_up)
            shown = (await listed(client))["lim_requests"]
        assert (shown["used"], shown["is_shared"]) == (0, False)
