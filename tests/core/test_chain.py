"""The chain of a prompt: turns share beginnings, tenants share none, and nothing but lengths can be read from it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.chain import FIRST_MAX, LAST_MAX, chat_chain, of_session, prompt_chain
from gateway.core.request import parse_chat, parse_completion

texts = st.text(max_size=20) | st.sampled_from([1, 1023, 1024, 1025, 2500]).map("é".__mul__)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts},
    optional={"name": st.text(max_size=3), "tool_calls": st.just([{"id": "a", "function": {"name": "f"}}])},
)
talks = st.lists(messages, min_size=1, max_size=6)


def chat(talk, scope="acme", **fields):
    return chat_chain(scope, {"model": "tiny", "messages": talk, **fields})


def user(text):
    return {"role": "user", "content": text}


def shared(one, other):
    """Count the beginnings that two chains have in common."""
    return next(
        (n for n, pair in enumerate(zip(one.hashes, other.hashes, strict=False)) if pair[0] != pair[1]),
        min(len(one.hashes), len(other.hashes)),
    )


@given(talks, talks)
def test_the_next_turn_begins_with_all_of_the_last_one(talk, more):
    before, after = chat(talk), chat([*talk, *more])
    assert set(before.hashes) <= set(after.hashes)
    assert shared(before, after) == len(before.hashes)
    if any(message["role"] == "user" for message in talk):
        assert before.key == after.key


@given(talks, talks)
def test_tenants_share_nothing_unless_they_share_their_cache(one, other):
    ours, theirs = chat(one), chat(other, scope="globex")
    assert not set(ours.hashes) & set(theirs.hashes)
    assert ours.key != theirs.key
    assert chat(one, scope=None) == chat(one, scope=None)


@given(talks)
def test_lengths_grow_and_are_those_of_the_text(talk):
    chain = chat(talk)
    assert list(chain.tokens) == sorted(chain.tokens)
    assert all(tokens > 0 for tokens in chain.tokens)
    if all(set(message) == {"role", "content"} for message in talk):
        size = sum(len(f"{message['role']}\n{message['content']}".encode()) for message in talk)
        assert chain.length == size // 4


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        ({"model": "other"}, False),
        ({"tools": [{"type": "function"}]}, False),
        ({"temperature": 0.5, "max_tokens": 3}, True),
    ],
)
def test_what_stands_before_the_messages_is_in_every_beginning(changed, is_same):
    one = chat([user("hello there")])
    assert (chat_chain("acme", {"model": "tiny", "messages": [user("hello there")], **changed}) == one) is is_same


def test_a_long_document_that_many_ask_about_counts_though_the_questions_differ():
    document = "water " * 5000
    one, other = (chat([user(document + question)]) for question in ("Why?", "How long does it take?"))
    share = one.tokens[shared(one, other) - 1] / one.length
    assert share > 0.9
    assert one.key == other.key


def test_the_key_is_that_of_all_up_to_the_first_user_message():
    system = {"role": "system", "content": "Be brief."}
    one = chat([system, user("hello"), {"role": "assistant", "content": "hi"}, user("more")])
    assert one.key == chat([system, user("hello")]).key
    assert one.key != chat([system, user("hullo")]).key
    assert one.key != chat([user("hello")]).key


def assistant(text):
    return {"role": "assistant", "content": text}


@given(talks)
def test_the_last_turn_is_what_came_before_the_last_answer(talk):
    asked = [*talk, user("how deep?")]
    chain = chat([*asked, assistant("fathoms"), user("how many?")])
    assert chain.last_turn == chat(asked).length
    assert of_session(chain, "acme", b"42").last_turn == chain.last_turn


def test_a_first_turn_has_none_before_it_unless_its_caller_named_what_it_goes_on_with():
    assert chat([user("hello")]).last_turn == 0
    assert chat([user("hello")], prompt_cache_key="desk").last_turn is None
    assert of_session(chat([user("hello")]), "acme", b"42").last_turn is None
    assert prompt_chain("acme", {"model": "tiny", "prompt": "hello there"}).last_turn is None


def test_callers_may_name_a_key_or_a_session():
    one, other = (chat([user(text)], prompt_cache_key="desk") for text in ("a first", "a second"))
    assert one.key == other.key != chat([user("a first")]).key
    assert one.key != chat([user("a first")], scope="globex", prompt_cache_key="desk").key
    named = of_session(one, "acme", b"42")
    assert named.key == of_session(chat([user("else")]), "acme", b"42").key != of_session(one, "globex", b"42").key
    assert named.hashes == one.hashes


@given(st.integers(1, 1000))
def test_a_chain_is_bounded_however_long_the_talk_and_still_leads_to_the_next_turn(count):
    talk = [user(f"message number {number}") for number in range(count)]
    before, after = chat(talk), chat([*talk, user("one more"), user("and one more")])
    assert len(before.hashes) <= FIRST_MAX + LAST_MAX
    assert before.hashes[-1] in after.hashes


def test_a_body_of_16_mib_has_some_hundred_beginnings():
    assert len(chat([user("x" * (16 << 20))]).hashes) < 130


def test_half_a_character_and_parts_that_are_no_text_are_no_trouble():
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}
    assert chat([{"role": "user", "content": "\ud800" * 9}, picture]).length > 0


def test_a_text_completion_has_a_chain_too():
    one, other = (prompt_chain("acme", {"model": "tiny", "prompt": "x" * 9000 + end}) for end in ("a", "b"))
    assert shared(one, other) == len(one.hashes) - 1
    assert prompt_chain("acme", {"model": "tiny", "prompt": [1, 2, 3]}).hashes


def test_requests_have_their_chain_and_do_not_show_it():
    body = {"model": "tiny", "messages": [user("hello there, you rivers")], "prompt_cache_key": "desk"}
    request = parse_chat(json.dumps(body).encode(), "acme")
    assert request.chain == chat_chain("acme", body)
    assert "chain" not in repr(request)
    assert parse_completion(b'{"model": "tiny", "prompt": "hello there"}', None).chain.hashes
