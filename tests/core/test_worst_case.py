"""What a hard budget holds is never less than what the request comes to cost."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.prices import Tier, Unit
from gateway.core.rating import charge, cost_nano, is_batch
from gateway.core.request import parse_chat
from gateway.core.worst_case import IMAGE_TOKENS_MAX, Reach, at_most, bounded, most_nano, unbounded_part
from tests.prices import OLD

FEMTO = st.integers(0, 10**6).map(lambda price: price * 1000)
TIERS = st.tuples(*(st.fixed_dictionaries(dict.fromkeys(Unit, FEMTO)) for _ in range(3)))


@given(
    TIERS,
    st.tuples(*(st.integers(0, 3000) for _ in range(6))),
    st.sampled_from([500, 1000]),
    st.sampled_from(["standard", "batch"]),
)
def test_no_use_within_reach_costs_more(tiers, used, batch_thousandths, service_class):
    prompt, cached, completion, reasoning, images, audio_ms = used
    cached, reasoning = min(cached, prompt), min(reasoning, completion)
    steps = (0, 500, 1500)
    price = replace(
        OLD,
        tiers=tuple(Tier(at, femto) for at, femto in zip(steps, tiers, strict=True)),
        batch_thousandths=batch_thousandths,
    )
    counted = {
        Unit.INPUT: prompt - cached,
        Unit.CACHED_INPUT: cached,
        Unit.OUTPUT: completion - reasoning,
        Unit.REASONING: reasoning,
        Unit.IMAGE: images,
        Unit.AUDIO: audio_ms,
    }
    cost = cost_nano(charge(counted, price, price.tier_of(prompt), is_batch=is_batch(service_class)))
    assert cost <= most_nano(Reach(prompt, completion, images, audio_ms), price, service_class)


def request(**changes):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 100}], **changes}
    return parse_chat(json.dumps(body).encode(), None)


def test_what_has_no_max_tokens_gets_them_in_its_body_and_what_has_keeps_its_own():
    assert json.loads(bounded(request(), 7).body)["max_tokens"] == 7
    own = request(max_completion_tokens=9)
    assert bounded(own, 7) is own
    assert at_most(bounded(own, 7)).completion == 9


def test_every_answer_counts():
    assert at_most(request(n=3, max_tokens=10)).completion == 30


def test_each_image_counts_as_the_largest():
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    messages = [{"role": "user", "content": [image, image]}]
    assert at_most(request(messages=messages, max_tokens=1)).prompt > 2 * IMAGE_TOKENS_MAX


def test_tools_count_twice_as_a_template_writes_them_with_spaces():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"a": list(range(100))}}}]
    with_tools = request(max_tokens=1, tools=tools)
    assert at_most(with_tools).prompt >= 2 * len(with_tools.body)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"chat_template": "{% for i in range(9999) %}x{% endfor %}"}, "chat_template"),
        ({"mm_processor_kwargs": {"max_pixels": 10**9}}, "mm_processor_kwargs"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "video_url"),
        ({"messages": [{"role": "user", "content": [{"type": "audio_url"}]}]}, "audio_url"),
    ],
)
def test_what_has_no_bound_is_named(changes, named):
    assert named in (unbounded_part(request(**changes)) or "")


def test_text_and_tools_have_a_bound():
    assert unbounded_part(request(tools=[], stop=["x"])) is None
