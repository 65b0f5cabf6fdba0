"""An engine sleeps when it is told to and idle, and wakes when it is told to serve."""

from tests.workers.test_agent import ear, is_ready, start

__all__ = ["ear", "start"]


def test_an_engine_sleeps_by_order_and_wakes_again(start, ear):
    start(None, "--sleep-mode")
    ear.until(is_ready)
    ear.says = {"orders": {"state": "sleep"}}
    ear.until(lambda beat: beat["state"] == "sleeping")
    ear.says = {"orders": {"state": "serve"}}
    slept = len(ear.beats)
    ear.until(lambda beat: is_ready(beat) and beat in ear.beats[slept:])
    assert ear.states[-3:] == ["sleeping", "warming", "ready"]


def test_an_engine_that_cannot_sleep_says_so_and_stays_up(start, ear):
    start()
    ear.until(is_ready)
    ear.says = {"orders": {"state": "sleep"}}
    beat = ear.until(lambda beat: "cannot sleep" in beat["cause"])
    assert is_ready(beat)
    assert "--sleep-mode" in beat["cause"]
