"""What may be declared as a limit, and whether each is live."""

import pytest

from gateway.control.keys import create_key, revoke_key
from gateway.control.limits import AMOUNT_MAX, list_limits, remove_limit, set_limit, to_json
from gateway.control.models import declare_model, retire_model
from gateway.control.subjects import Who
from gateway.control.tenants import create_tenant, suspend_tenant
from gateway.errors import InvalidInput, NotFoundError

NOW = 1_700_000_000_000


@pytest.fixture
def declared(directory):
    """A Directory with a tenant, its project web with a key, and a model; gives the key's id."""
    create_tenant(directory, "acme")
    create_tenant(directory, "other")
    declare_model(directory, "qwen3", "chat", now_ms=NOW)
    key, _ = create_key(directory, "acme", now_ms=NOW, project="web")
    return key.id


def limit(directory, amount=10, metric="requests", **who):
    return set_limit(directory, Who(**who), metric, amount, now_ms=NOW)


def test_each_scope_is_found_from_what_was_named(directory, declared):
    whos = [
        {"tenant": "acme"},
        {"tenant": "acme", "project": "web"},
        {"key": declared},
        {"model": "qwen3"},
        {"tenant": "acme", "model": "qwen3"},
    ]
    made = [limit(directory, **who) for who in whos]
    assert [(each.scope, each.subject, each.tenant, each.model) for each in made] == [
        ("tenant", "acme", "acme", ""),
        ("project", "acme/web", "acme", ""),
        ("key", declared, "acme", ""),
        ("model", "qwen3", "", ""),
        ("tenant", "acme", "acme", "qwen3"),
    ]
    assert len({each.id for each in made}) == 5


def test_declaring_a_limit_again_changes_its_amount(directory, declared):
    first, second = limit(directory, 10, tenant="acme"), limit(directory, 20, tenant="acme")
    assert first.id == second.id
    assert [state.limit.amount for state in list_limits(directory, None, NOW)] == [20]


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ({"tenant": "nobody"}, "no tenant 'nobody'"),
        ({"tenant": "acme", "project": "app"}, "is of project 'app'"),
        ({"tenant": "other", "project": "web"}, "is of project 'web'"),
        ({"key": "key_0"}, "no key 'key_0'"),
        ({"model": "gpt"}, "'gpt' is not declared"),
        ({"tenant": "acme", "model": "gpt"}, "'gpt' is not declared"),
    ],
)
def test_a_limit_that_names_nothing_is_an_error(directory, declared, who, message):
    with pytest.raises(NotFoundError, match=message):
        limit(directory, **who)
    assert list_limits(directory, None, NOW) == []


def test_words_that_do_not_agree_are_an_error(directory, declared):
    with pytest.raises(InvalidInput, match="binds nobody"):
        limit(directory)
    with pytest.raises(InvalidInput, match="needs its tenant"):
        limit(directory, project="web")
    with pytest.raises(InvalidInput, match="of tenant 'acme', not of 'other'"):
        limit(directory, key=declared, tenant="other")
    revoke_key(directory, declared)
    with pytest.raises(InvalidInput, match="revoked or expired"):
        limit(directory, key=declared)
    with pytest.raises(NotFoundError, match="is of project 'web'"):
        limit(directory, tenant="acme", project="web")


@pytest.mark.parametrize("amount", [0, -1, AMOUNT_MAX + 1, 10**30])
def test_absurd_amounts_are_refused_with_the_bound(directory, declared, amount):
    with pytest.raises(InvalidInput, match=f"requests {amount} cannot be: a limit is 1 to {AMOUNT_MAX}"):
        limit(directory, amount, tenant="acme")


def test_a_metric_that_there_is_not_is_refused_with_those_there_are(directory, declared):
    with pytest.raises(InvalidInput, match=r"'words'\. Choose one of requests, input_tokens"):
        limit(directory, metric="words", tenant="acme")


def test_each_limit_says_whether_it_is_live_and_why_not(directory, declared):
    of_tenant, of_key = limit(directory, tenant="acme"), limit(directory, key=declared)
    of_project, of_model = limit(directory, tenant="acme", project="web"), limit(directory, model="qwen3")

    def flaws():
        return {state.limit.id: state.flaw for state in list_limits(directory, None, NOW)}

    assert set(flaws().values()) == {""}
    revoke_key(directory, declared)
    retire_model(directory, "qwen3")
    assert flaws() == {
        of_tenant.id: "",
        of_key.id: f"key {declared!r} does not work",
        of_project.id: "project 'acme/web' has no key that works",
        of_model.id: "model 'qwen3' is retired",
    }
    suspend_tenant(directory, "acme")
    assert flaws()[of_tenant.id] == "tenant 'acme' is suspended"
    assert to_json(list_limits(directory, None, NOW)[0])["is_live"] is False


def test_a_removed_limit_is_gone_and_may_be_removed_again(directory, declared):
    made = limit(directory, tenant="acme")
    assert remove_limit(directory, made.id) == remove_limit(directory, made.id)
    assert list_limits(directory, None, NOW) == []
    with pytest.raises(NotFoundError, match="no limit 'lim_1'"):
        remove_limit(directory, "lim_1")
