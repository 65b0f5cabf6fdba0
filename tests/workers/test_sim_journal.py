"""What the simulated engine writes down, and how it frames several tokens at once."""

import json

import httpx
import pytest


@pytest.fixture
def lines(tmp_path):
    """A function that reads the journal's file as it is now."""
    return lambda: [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]


async def test_every_request_that_ended_is_a_line_of_the_journals_file_at_once(start_sim, tmp_path, lines):
    sim = await start_sim(journal_file=tmp_path / "journal")
    await sim.http.post(
        "/v1/completions", json={"prompt": "a b", "max_tokens": 3, "n": 2}, headers={"x-request-id": "one"}
    )
    assert lines() == await sim.journal()
    [entry] = lines()
    assert (entry["request"], entry["outcome"], entry["choices"]) == ("one", "done", 2)
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["written_tokens"]) == (2, 6, 6)


async def test_tokens_that_were_made_but_not_written_are_told_apart(start_sim, tmp_path, lines):
    """The first token goes at once; the other three are not yet a frame when the connection breaks off."""
    sim = await start_sim(journal_file=tmp_path / "journal", stream_interval=8)
    await sim.fault(crash_next=1, crash_after_tokens=4)
    with pytest.raises(httpx.RemoteProtocolError):
        await sim.complete(max_tokens=20, stream=True)
    [entry] = lines()
    assert (entry["outcome"], entry["completion_tokens"], entry["written_tokens"]) == ("crashed", 4, 1)


@pytest.mark.parametrize(("crash_after_tokens", "is_whole"), [(3, False), (4, True)])
async def test_a_crash_behind_the_last_token_is_told_apart_from_one_before_it(start_sim, crash_after_tokens, is_whole):
    sim = await start_sim()
    await sim.fault(crash_next=1, crash_after_tokens=crash_after_tokens)
    with pytest.raises(httpx.RemoteProtocolError):
        await sim.complete(max_tokens=4, stream=True, ignore_eos=True)
    [entry] = await sim.journal()
    assert (entry["outcome"], entry["is_whole"]) == ("crashed", is_whole)


async def test_a_frame_carries_as_many_tokens_as_the_stream_interval_says(start_sim):
    sim = await start_sim(stream_interval=8)
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = await sim.chat(max_tokens=20, stream=True, stream_options=options, ignore_eos=True)
    frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    counts = [frame["usage"]["completion_tokens"] for frame in frames]
    assert counts == [0, 1, 9, 17, 20, 20]
    assert sum(f["choices"][0]["delta"].get("content", "").count(" ") for f in frames if f["choices"]) == 20
