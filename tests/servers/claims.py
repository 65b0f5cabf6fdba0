"""What must be true of clients' endings and of the Journal after something was killed, whatever the engines are."""

from collections.abc import Sequence

from tests.servers.clients import Ending


def assert_finished_requests_are_booked_once(endings: Sequence[Ending], events: dict[str, dict]) -> None:
    """After a gateway's death: what a client finished is in the Journal, with its tokens; what was cut is there too."""
    for ending in endings:
        if ending.is_finished:
            event = events.get(ending.request_id)
            assert event is not None, f"{ending.request_id} was finished but is not in the Journal"
            assert event["outcome"] == "completed"
            assert (event["prompt_tokens"], event["completion_tokens"]) == (
                ending.usage.prompt,
                ending.usage.completion,
            )
        elif ending.status == 200 and not ending.is_whole:
            # Settled at its last progress, which a client may not have seen; or closed just before [DONE] left.
            event = events[ending.request_id]
            is_settled_low = event["completion_tokens"] <= max(ending.usage.completion, 1)
            assert is_settled_low or event["outcome"] == "completed", event


def assert_a_dead_worker_costs_nobody(endings: Sequence[Ending], events: dict[str, dict]) -> None:
    """After a worker's death: all succeeded, begun streams went on elsewhere, each is billed what it got."""
    for ending in endings:
        assert ending.is_finished, f"{ending.status} {ending.body[-300:]!r}"
        event = events[ending.request_id]
        assert (event["outcome"], event["flag"]) == ("completed", "exact")
        assert (event["prompt_tokens"], event["completion_tokens"]) == (ending.usage.prompt, ending.usage.completion)
        assert ending.usage.completion == ending.asked["max_tokens"]
    assert any(event["continued"] for event in events.values()), "no stream was cut: nothing proved"
