"""Answers' lengths are learnt by tenant and model, within what the request allows and in bounded memory."""

import json
import random

import pytest

from gateway.core.prediction import Predictor
from gateway.core.request import COMPLETION_TOKENS_GUESS, parse_chat
from gateway.core.usage import Usage


def request(model="m", **fields):
    body = {"model": model, "messages": [{"role": "user", "content": "x" * 400}], **fields}
    return parse_chat(json.dumps(body).encode(), None)


def teach(predictor, lengths, tenant="t", **fields):
    for tokens in lengths:
        predictor.learn(tenant, request(**fields), Usage(prompt=100, completion=tokens))


def test_a_stranger_is_guessed():
    known = Predictor().foresee("t", request())
    assert known.answer_tokens == COMPLETION_TOKENS_GUESS
    assert known.work == known.prompt_tokens + 2 * COMPLETION_TOKENS_GUESS


def test_what_a_request_allows_bounds_what_is_predicted():
    predictor = Predictor()
    teach(predictor, [1000] * 50)
    bounded = predictor.foresee("t", request(max_tokens=10))
    assert bounded.work == bounded.prompt_tokens + 2 * 10
    assert predictor.foresee("t", request()).answer_tokens == pytest.approx(1000, rel=0.1)


def test_tenants_and_models_are_apart():
    predictor = Predictor()
    teach(predictor, [10] * 50, tenant="short")
    teach(predictor, [900] * 50, tenant="long")
    teach(predictor, [300] * 50, tenant="long", model="other")
    found = [
        predictor.foresee(tenant, request(model)).answer_tokens
        for tenant, model in (("short", "m"), ("long", "m"), ("long", "other"), ("short", "other"))
    ]
    assert found == [pytest.approx(10, abs=25), pytest.approx(900, rel=0.1), pytest.approx(300, rel=0.1), 256]


@pytest.mark.parametrize("seed", range(5))
def test_the_high_quantile_is_exceeded_by_one_in_ten(seed):
    """Log-normal lengths, as the traces of conversations have them."""
    dice = random.Random(seed)
    predictor = Predictor()
    over = 0
    for number in range(4000):
        tokens = max(1, round(dice.lognormvariate(5.0, 1.0)))
        if number >= 500:
            over += tokens > predictor._answers["t", "m"].high
        teach(predictor, [tokens])
    assert over / 3500 == pytest.approx(0.1, abs=0.02)


def test_a_few_giant_answers_do_not_pass_for_the_mean():
    predictor = Predictor()
    teach(predictor, [100] * 200 + [100_000] + [100] * 3)
    assert predictor.foresee("t", request()).answer_tokens < 300


def test_a_new_use_of_a_model_is_learnt_within_some_dozens():
    predictor = Predictor()
    teach(predictor, [50] * 500)
    teach(predictor, [600] * 60)
    assert predictor.foresee("t", request()).answer_tokens == pytest.approx(600, rel=0.15)


def test_several_choices_are_learnt_as_one_each():
    predictor = Predictor()
    teach(predictor, [300] * 60, n=3)
    three = predictor.foresee("t", request(n=3))
    assert three.work - three.prompt_tokens == pytest.approx(2 * 300, rel=0.1)


def test_what_was_in_cache_is_not_prefilled():
    predictor = Predictor()
    for _ in range(100):
        predictor.learn("t", request(), Usage(prompt=100, completion=10, cached=80))
    assert predictor.foresee("t", request()).prompt_tokens == pytest.approx(request().prompt_tokens * 0.2, rel=0.1)


def test_what_brought_nothing_teaches_nothing_and_memory_is_bounded():
    predictor = Predictor(kept_max=3)
    teach(predictor, [0])
    assert repr(predictor) == "<Predictor [0 kinds of answers]>"
    for tenant in "abcad":
        teach(predictor, [10], tenant=tenant)
    assert [tenant for tenant, _ in predictor._answers] == ["c", "a", "d"]
