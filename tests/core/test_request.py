"""A request is read once, altered by splicing, and refused with the name of the field that is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.outcome import Outcome
from gateway.core.request import parse_chat, splice
from gateway.errors import Refused

GOOD = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}

names = st.text(max_size=5) | st.sampled_from(["stream_options", "cache_salt", "model"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
spacing = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n ", "\t:\r\n")])


@given(st.dictionaries(names, values, max_size=6), st.dictionaries(names, values, max_size=3), spacing, st.booleans())
def test_splicing_sets_members_and_leaves_every_other_as_it_was(data, changes, separators, is_ascii):
    text = json.dumps(data, separators=separators, ensure_ascii=is_ascii)
    assert json.loads(splice(text, changes)) == data | changes


def test_splicing_keeps_the_source_text_of_what_it_does_not_touch():
    text = '{"a":1.50e3, "stream_options":{"x":["}",1]} ,"b": 12345678901234567890.0, "cache_salt":null}'
    spliced = splice(text, {"stream_options": {}, "cache_salt": "s"})
    assert '"a":1.50e3' in spliced
    assert '"b": 12345678901234567890.0' in spliced
    assert json.loads(spliced)["stream_options"] == {}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"stream": "yes"}, "stream"),
        ({"max_tokens": "abc"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"n": 1.5}, "n"),
        ({"user": 5}, "user"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"cache_salt": 3}, "cache_salt"),
    ],
)
def test_a_wrong_field_is_named(change, param):
    with pytest.raises(Refused) as refused:
        parse_chat(json.dumps(GOOD | change).encode(), "acme")
    assert refused.value.outcome is Outcome.BAD_REQUEST
    assert refused.value.param == param
    assert param.split("[")[0] in refused.value.message


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"a":1}x', b'{"n":' + b"9" * 5000 + b"}", b"[" * 100_000]
)
def test_what_is_not_a_json_object_is_refused(body):
    with pytest.raises(Refused) as refused:
        parse_chat(body, None)
    assert refused.value.outcome is Outcome.BAD_REQUEST


def test_a_stream_is_always_asked_for_continuous_usage_and_the_clients_wish_is_remembered():
    body = json.dumps(GOOD | {"stream": True, "stream_options": {"include_usage": False, "x": 1}}).encode()
    request = parse_chat(body, "acme")
    sent = json.loads(request.body)
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True, "x": 1}
    assert not request.include_usage
    assert not request.continuous_usage


def test_tenants_do_not_share_a_prefix_cache_even_if_they_name_the_same_salt():
    body = json.dumps(GOOD | {"cache_salt": "s"}).encode()
    salts = {json.loads(parse_chat(body, tenant).body)["cache_salt"] for tenant in ("acme", "bolt")}
    assert salts == {"acme:s", "bolt:s"}
    assert parse_chat(body, None).body == body


def test_unknown_fields_pass_through():
    sent = json.loads(parse_chat(json.dumps(GOOD | {"top_k": 5, "vendor": {"x": [1]}}).encode(), "a").body)
    assert sent["top_k"] == 5
    assert sent["vendor"] == {"x": [1]}


def test_prompts_stay_out_of_the_repr():
    assert "hi" not in repr(parse_chat(json.dumps(GOOD).encode(), None))
