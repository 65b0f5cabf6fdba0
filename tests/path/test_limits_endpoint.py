"""GET /v1/limits: the caller's own limits and budgets, as they stand."""

import pytest

from gateway.control.keys import create_key
from gateway.control.models import retire_model
from gateway.core.money import NANO
from gateway.core.prices import PriceVersion, Tier, Unit
from gateway.stores.sql_directory import SqlDirectory
from tests.servers.installation import ADMIN_TOKEN
from tests.servers.rules import a_budget, a_limit, chat, client_of, declare

PRICE = PriceVersion(id="pri_1", model="tiny", from_ms=0, tiers=(Tier(0, {Unit.OUTPUT: NANO // 100 * 10**6}),))


@pytest.fixture
async def path(start_path):
    async with start_path(count=1, admin_token=ADMIN_TOKEN) as path:
        yield path


@pytest.fixture
async def client(path):
    async with client_of(path) as client:
        yield client


async def limits(client):
    answer = await client.get("/v1/limits")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_each_limit_says_what_is_allowed_used_left_and_when_it_clears(path, client):
    await declare(path, a_limit("requests", 600), a_limit("concurrent", 5))
    await chat(client)
    shown = await limits(client)
    requests = next(each for each in shown["limits"] if each["metric"] == "requests")
    assert (requests["allowed"], requests["used"], requests["left"]) == (600, 1, 599)
    assert 50 < requests["clears_in_s"] <= 61
    at_once = next(each for each in shown["limits"] if each["metric"] == "concurrent")
    assert (at_once["left"], at_once["is_live"], shown["is_shared"]) == (5, True, True)


async def test_looking_uses_nothing(path, client):
    await declare(path, a_limit("requests", 600))
    for _ in range(3):
        assert (await limits(client))["limits"][0]["used"] == 0


async def test_a_budget_says_what_is_used_held_and_left_to_the_nano(path, client):
    SqlDirectory(path.gateway._database).put_prices([PRICE])
    await declare(path, a_budget(NANO, period="month"), a_budget(1000, id="bud_2", kind="tokens"))
    used = (await chat(client)).json()["usage"]
    money, tokens = (await limits(client))["budgets"]
    assert (money["allowed"], money["used"], money["held"], money["left"]) == ("1.00", "0.20", "0.00", "0.80")
    assert (money["currency"], money["is_live"], money["is_hard"]) == ("CNY", True, True)
    assert money["ends_ms"] > 0
    assert (tokens["used"], tokens["left"]) == (used["total_tokens"], 1000 - used["total_tokens"])
    assert (tokens["currency"], tokens["ends_ms"]) == (None, None)


async def test_an_operator_sees_how_all_of_a_tenants_stand(path, client):
    """What is held and not shipped yet is nobody's secret to the operator, whichever key it is held for."""
    await declare(path, a_limit("requests", 600), a_budget(1000, id="bud_2", kind="tokens"))
    used = (await chat(client)).json()["usage"]["total_tokens"]
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    shown = (await client.get("/admin/v1/holds?tenant=acme", headers=headers)).json()
    assert shown["tenant"] == "acme"
    assert [(each["metric"], each["used"]) for each in shown["limits"]] == [("requests", 1)]
    assert [(each["used"], each["held"], each["left"]) for each in shown["budgets"]] == [(used, 0, 1000 - used)]
    assert (await client.get("/admin/v1/holds?tenant=acme")).status_code == 401


async def test_only_what_may_bind_the_callers_own_key_is_shown(path, client):
    store = SqlDirectory(path.gateway._database)
    mine = next(key for key in store.keys("acme"))
    other, _ = create_key(store, "acme", now_ms=1, project="web")
    await declare(
        path,
        a_limit("requests", 1, id="mine", scope="key", subject=mine.id),
        a_limit("requests", 2, id="its-model", scope="model", subject="tiny", tenant=""),
        a_limit("requests", 3, id="narrowed", model="tiny"),
        a_limit("requests", 4, id="another-key", scope="key", subject=other.id),
        a_limit("requests", 5, id="another-project", scope="project", subject="acme/web"),
        a_limit("requests", 6, id="another-tenant", subject="other", tenant="other"),
        a_limit("requests", 7, id="removed", is_removed=True),
    )
    assert {each["id"] for each in (await limits(client))["limits"]} == {"mine", "its-model", "narrowed"}


async def test_what_binds_nothing_says_why(path, client):
    await declare(path, a_limit("requests", 1, model="tiny"), a_budget(NANO))
    retire_model(SqlDirectory(path.gateway._database), "tiny")
    await path.gateway._directory.refresh()
    shown = await limits(client)
    assert (shown["limits"][0]["is_live"], shown["limits"][0]["flaw"]) == (False, "model 'tiny' is retired")
    assert shown["budgets"][0]["flaw"] == "nothing that it binds has a price"


async def test_without_any_there_is_an_empty_answer_and_without_a_key_none(path, client):
    assert (await limits(client))["limits"] == []
    assert (await client.get("/v1/limits", headers={"authorization": ""})).status_code == 401
    assert (await client.post("/v1/limits")).status_code == 405
