"""Starting workers are capacity that is known to come, once a start of their pool was seen."""

from dataclasses import replace

from gateway.core.eta import Coming
from gateway.core.roster import Beat, WorkerState
from gateway.core.starts import Starts


def beat(worker="w", state=WorkerState.LOADING, pool="p", max_seqs=8):
    return Beat(worker=worker, pool=pool, models=("m",), url="http://x", state=state, max_seqs=max_seqs)


READY = WorkerState.READY


def started(*took_s, pool="p"):
    """Give Starts that saw starts of so many seconds, up to the time that is their sum."""
    starts, now_s = Starts(), 0.0
    starts.look([], now_s)
    for number, seconds in enumerate(took_s):
        starts.look([beat(f"s{number}", pool=pool)], now_s)
        now_s += seconds
        starts.look([beat(f"s{number}", READY, pool=pool)], now_s)
    return starts, now_s


def test_nothing_is_promised_before_a_start_was_seen():
    starts = Starts()
    starts.look([], 0)
    starts.look([beat()], 1)
    assert starts.coming("p", 1) == []
    starts, now_s = started(60)
    assert starts.coming("p", now_s) == []  # nothing is starting


def test_a_start_is_expected_to_take_what_the_last_ones_took():
    starts, now_s = started(60, 80)
    starts.look([beat()], now_s)
    assert starts.coming("p", now_s) == [Coming(now_s + 66, 8)]
    assert starts.coming("p", now_s + 50) == [Coming(now_s + 66, 8)]
    assert starts.coming("other", now_s) == []


def test_an_overdue_start_takes_a_tenth_of_its_time_again():
    starts, now_s = started(60)
    starts.look([beat()], now_s)
    assert starts.coming("p", now_s + 100) == [Coming(now_s + 110, 8)]


def test_a_worker_that_does_not_say_its_slots_has_as_many_as_the_others():
    starts, now_s = started(60)
    starts.look([beat(max_seqs=0)], now_s)
    assert [coming.slots for coming in starts.coming("p", now_s)] == [8]


def test_a_start_that_was_under_way_already_is_not_learnt_from():
    """A gateway that has just started itself would take the rest of a start for the whole."""
    starts = Starts()
    starts.look([beat()], 0)
    starts.look([beat(state=READY)], 5)
    starts.look([beat("v")], 6)
    assert starts.coming("p", 6) == []


def test_a_start_that_fails_or_vanishes_is_not_expected_any_more():
    starts, now_s = started(60)
    for gone in ([beat(state=WorkerState.FAILED)], []):
        starts.look([beat()], now_s)
        assert starts.coming("p", now_s)
        starts.look(gone, now_s)
        assert starts.coming("p", now_s) == []
    assert repr(starts) == "<Starts [0 under way, 1 pools known]>"


def test_what_an_agent_says_of_its_start_goes_before_what_was_learnt():
    starts, now_s = started(60)
    starts.look([replace(beat(state=WorkerState.DOWNLOADING), ready_in_s=400.0)], now_s)
    assert starts.coming("p", now_s + 10) == [Coming(now_s + 400, 8)]
    starts.look([beat()], now_s + 20)
    assert starts.coming("p", now_s + 20) == [Coming(now_s + 60, 8)], "one that does not know is taken for the mean"


def test_an_agent_that_knows_is_believed_before_any_start_was_seen():
    starts = Starts()
    starts.look([replace(beat(), ready_in_s=30.0)], 5)
    assert starts.coming("p", 5) == [Coming(35, 8)]
