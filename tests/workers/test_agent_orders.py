"""An agent does as gateways say in their answers to its beats."""

from tests.workers.test_agent import LONG, ear, engine_of, is_gone, is_ready, start

__all__ = ["ear", "start"]


def ordered(state, in_flight=0):
    return {"in_flight": in_flight, "orders": {"state": state, "adapters": None}}


def test_a_cordoned_worker_stays_and_a_drained_one_ends_when_nobody_has_anything_on_it(start, ear):
    """Also when the engine has made all, and a client that reads slowly has not got it yet."""
    agent = start(None, "--drain-s", "20")  # the limit of a drain by signal, and for clients that read slowly
    beat = ear.until(is_ready)
    engine = agent.engine
    ear.says = ordered("cordon")
    ear.until_count(len(ear.beats) + 3)
    assert ear.states[-1] == "ready"
    with engine_of(beat) as http:
        body = {"prompt": "a", "max_tokens": 150, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            ear.says = ordered("drain", in_flight=1)
            ear.until(lambda beat: beat["state"] == "draining")
            assert list(lines)[-2:] == ["data: [DONE]", ""]
    ear.until_count(len(ear.beats) + 4)
    assert agent.process.poll() is None
    ear.says = ordered("drain")
    assert agent.process.wait(30) == 0
    assert agent.events("worker_drained")[0]["is_in_full"] is True
    assert [event["order"] for event in agent.events("ordered")] == ["cordon", "drain"]
    assert ear.goodbyes == ["/internal/v1/workers/w%201"]
    assert is_gone(engine)


def test_an_ordered_drain_has_no_limit_until_a_signal_sets_one(start, ear):
    agent = start(None, "--drain-s", "1")
    beat = ear.until(is_ready)
    with engine_of(beat) as http, http.stream("POST", "/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()  # held: one that is let go closes the stream
        next(lines)
        ear.says = ordered("drain")
        ear.until(lambda beat: beat["state"] == "draining")
        ear.until_count(len(ear.beats) + 4)
        assert agent.process.poll() is None, "its second was over long ago"
        agent.terminate()
        assert agent.process.wait(20) == 0
    assert agent.events("worker_drained")[0]["is_in_full"] is False
