"""How long a start still takes is known from a download's pace and from earlier starts."""

import json

from workers.agent.stages import Download, Stages
from workers.agent.worker_state import WorkerState as State


def stages(tmp_path, **known_s):
    path = tmp_path / "start-times.json"
    if known_s:
        path.write_text(json.dumps({"way": known_s}))
    return Stages(path, "way")


def test_a_first_start_promises_nothing(tmp_path):
    first = stages(tmp_path)
    assert first.left_s(0) is None
    first.enter(State.LOADING, 0)
    assert first.left_s(10) is None


def test_the_next_start_takes_what_the_last_one_took_also_after_a_reboot(tmp_path):
    first = stages(tmp_path)
    for state, at_s in ((State.LOADING, 1), (State.WARMING, 41), (State.READY, 46)):
        first.enter(state, at_s)
    second = stages(tmp_path)
    assert second.left_s(0) == 45
    second.enter(State.LOADING, 100)
    assert second.left_s(110) == 35
    second.enter(State.WARMING, 150)
    assert second.left_s(152) == 3
    second.enter(State.READY, 155)
    assert second.left_s(155) is None


def test_a_stage_that_is_overdue_takes_a_tenth_of_its_time_again(tmp_path):
    overdue = stages(tmp_path, loading=40, warming=5)
    overdue.enter(State.LOADING, 0)
    assert overdue.left_s(100) == 10 + 5


def test_a_failed_start_teaches_nothing(tmp_path):
    failing = stages(tmp_path, loading=40, warming=5)
    for state, at_s in ((State.LOADING, 0), (State.FAILED, 2), (State.STARTING, 3), (State.LOADING, 3)):
        failing.enter(state, at_s)
    assert failing.left_s(3) == 45
    for state, at_s in ((State.WARMING, 43), (State.READY, 48)):
        failing.enter(state, at_s)
    assert stages(tmp_path).left_s(0) == 45


def test_another_way_to_run_an_engine_has_times_of_its_own(tmp_path):
    stages(tmp_path, loading=40, warming=5)
    assert Stages(tmp_path / "start-times.json", "another way").left_s(0) is None


def test_a_file_that_cannot_be_read_is_no_trouble(tmp_path):
    (tmp_path / "start-times.json").write_text("{")
    assert stages(tmp_path).left_s(0) is None


def test_a_download_goes_on_at_its_pace_so_far(tmp_path):
    pulling = stages(tmp_path, loading=40, warming=5)
    pulling.enter(State.DOWNLOADING, 0)
    assert pulling.left_s(0) is None
    pulling.download = Download(bytes_total=1000, bytes_done=400)  # what an earlier attempt left
    pulling.download.at(400, 1.0)
    assert pulling.left_s(1) is None  # no pace yet
    pulling.download.at(600, 11.0)
    assert pulling.left_s(11) == 20 + 45
    assert pulling.download.percent == 60
