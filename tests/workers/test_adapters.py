"""LoRA adapters come and go on a running engine, by option or by what a gateway says; a bad one harms nobody."""

import pytest

from tests.workers.test_agent import ear, engine_of, is_ready, start

__all__ = ["ear", "start"]


def has(*names):
    return lambda beat: is_ready(beat) and beat["models"] == ["tiny", *names]


def models_of(beat):
    return [model["id"] for model in engine_of(beat).get("/v1/models").json()["data"]]


def test_an_adapter_that_is_named_is_loaded_and_told(start, ear):
    start(None, "--adapter", "poet=/adapters/poet")
    beat = ear.until(has("poet"))
    assert models_of(beat) == ["tiny", "poet"]


def test_what_the_pool_declares_replaces_what_there_was(start, ear):
    start(None, "--adapter", "poet=/adapters/poet", "--adapters-max", "2")
    ear.until(has("poet"))
    ear.says = {"orders": {"state": "serve", "adapters": {"clerk": "/adapters/clerk", "cook": "/adapters/cook"}}}
    beat = ear.until(has("clerk", "cook"))
    assert models_of(beat) == ["tiny", "clerk", "cook"]
    ear.says = {"orders": {"state": "serve", "adapters": {"cook": "/adapters/cook"}}}
    assert models_of(ear.until(has("cook"))) == ["tiny", "cook"]


def test_an_adapter_that_cannot_be_found_is_said_and_the_rest_serves(start, ear):
    start(None, "--adapter", "lost=/missing", "--adapter", "poet=/adapters/poet")
    beat = ear.until(has("poet"))
    assert "'lost' could not be loaded: 404" in beat["cause"]


def test_one_more_than_there_is_room_for_is_refused_in_words(start, ear):
    start(None, "--adapter", "poet=/adapters/poet", "--adapter", "cook=/adapters/cook", "--adapters-max", "1")
    beat = ear.until(lambda beat: is_ready(beat) and beat["cause"])
    assert beat["models"] == ["tiny", "poet"]
    assert "at most 1" in beat["cause"]


def test_an_engine_that_starts_again_gets_its_adapters_again(start, ear):
    agent = start(None, "--adapter", "poet=/adapters/poet")
    ear.until(has("poet"))
    agent.engine.kill()
    ear.until(lambda beat: beat["state"] == "failed")
    after = len(ear.beats)
    ear.until(lambda beat: has("poet")(beat) and beat in ear.beats[after:])


@pytest.mark.parametrize("text", ["poet", "=folder"])
def test_an_adapter_without_name_or_source_is_refused(start, text):
    agent = start(None, "--adapter", text)
    assert agent.process.wait(30) == 2
    assert "is not NAME=VALUE" in agent.log.read_text()
