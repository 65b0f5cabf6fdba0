"""What a caller may wish of the queue by headers, and what it is told about wishes that cannot be."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai import OpenAI
from openai._models import FinalRequestOptions

from gateway.core.directory import ServiceClass
from gateway.core.outcome import Outcome
from gateway.errors import Refused
from gateway.serve.wishes import DEADLINE_MS_MAX, QueueEvents, Wishes, read_wishes

INTERACTIVE, STANDARD, BATCH = ServiceClass
NAMES = (b"x-sluice-class", b"x-request-deadline-ms", b"x-stainless-read-timeout", b"x-queue-events", b"user-agent")


def wishes(most_urgent=INTERACTIVE, **headers):
    """Read headers given with underscores for dashes."""
    return read_wishes({name.replace("_", "-").encode(): value for name, value in headers.items()}, most_urgent)


def refusal(most_urgent=INTERACTIVE, **headers):
    with pytest.raises(Refused) as caught:
        wishes(most_urgent, **headers)
    return caught.value


@pytest.mark.parametrize("most_urgent", ServiceClass)
def test_who_wishes_nothing_gets_its_own_class_and_comments(most_urgent):
    assert wishes(most_urgent) == Wishes(
        service_class=most_urgent, wait_s_max=None, events=QueueEvents.COMMENTS, is_old_go=False
    )


@pytest.mark.parametrize("wished", ServiceClass)
@pytest.mark.parametrize("most_urgent", ServiceClass)
def test_a_class_may_be_the_callers_or_less_urgent_and_nothing_above(wished, most_urgent):
    label = wished.label.encode()
    if wished >= most_urgent:
        assert wishes(most_urgent, x_sluice_class=label).service_class is wished
    else:
        refused = refusal(most_urgent, x_sluice_class=label)
        assert (refused.outcome, refused.param) == (Outcome.CLASS_NOT_ALLOWED, "X-Sluice-Class")
        assert wished.label in refused.message
        assert most_urgent.label in refused.message


def test_a_class_above_the_callers_is_a_403_that_openais_sdks_do_not_retry():
    error = json.loads(refusal(BATCH, x_sluice_class=b"interactive").body())["error"]
    assert Outcome.CLASS_NOT_ALLOWED.status == 403
    assert (error["type"], error["code"], error["param"]) == ("permission_error", "class_not_allowed", "X-Sluice-Class")


def test_values_may_have_spaces_around_them_and_capitals():
    read = wishes(x_sluice_class=b" Batch ", x_queue_events=b"\tNone", x_request_deadline_ms=b" 20 ")
    assert read == Wishes(service_class=BATCH, wait_s_max=0.02, events=QueueEvents.NONE)


@pytest.mark.parametrize("given_", [b"", b"gold", b"interactive,batch", b"0", b"\xff", "стандарт".encode(), b"batch\0"])
def test_an_unknown_class_is_a_400_that_names_header_value_and_choices(given_):
    refused = refusal(x_sluice_class=given_)
    assert (refused.outcome, refused.param) == (Outcome.BAD_REQUEST, "X-Sluice-Class")
    assert repr(given_.decode("latin-1")) in refused.message
    assert refused.message.endswith("one of interactive, standard, batch.")


@pytest.mark.parametrize(("given_", "events"), [(b"none", "NONE"), (b"comments", "COMMENTS"), (b"events", "EVENTS")])
def test_what_a_stream_is_told_while_it_waits_is_the_callers_choice(given_, events):
    assert wishes(x_queue_events=given_).events is QueueEvents[events]


def test_unknown_events_are_a_400_that_names_header_value_and_choices():
    refused = refusal(x_queue_events=b"loud")
    assert (refused.outcome, refused.param) == (Outcome.BAD_REQUEST, "X-Queue-Events")
    assert "'loud'" in refused.message
    assert refused.message.endswith("one of none, comments, events.")


@pytest.mark.parametrize(
    ("given_", "wait_s_max"), [(b"1", 0.001), (b"1500", 1.5), (b"86400000", 86_400.0), (b"007", 0.007)]
)
def test_a_deadline_is_milliseconds_from_arrival(given_, wait_s_max):
    assert wishes(x_request_deadline_ms=given_).wait_s_max == wait_s_max


@pytest.mark.parametrize(
    "given_",
    [b"", b"0", b"86400001", b"-5", b"+5", b"1.5", b"1e3", b"1_000", b"5s", b"soon", b"9" * 5000, b"\xb2", b"1 0"],
)
def test_a_deadline_that_cannot_be_is_a_400_that_says_what_can(given_):
    refused = refusal(x_request_deadline_ms=given_)
    assert (refused.outcome, refused.param) == (Outcome.BAD_REQUEST, "X-Request-Deadline-Ms")
    assert f"from 1 to {DEADLINE_MS_MAX}" in refused.message
    assert len(refused.message) < 200


def test_a_deadline_of_the_users_own_counts_before_the_sdks():
    assert wishes(x_request_deadline_ms=b"2000", x_stainless_read_timeout=b"600").wait_s_max == 2


def test_a_deadline_that_cannot_be_is_refused_whatever_the_sdk_says():
    assert refusal(x_request_deadline_ms=b"soon", x_stainless_read_timeout=b"600").outcome is Outcome.BAD_REQUEST


@pytest.mark.parametrize(
    ("given_", "wait_s_max"), [(b"600", 600), (b"600.0", 600), (b"0.5", 0.5), (b"1e-05", 1e-05), (b"1e+16", 86_400)]
)
def test_the_sdks_read_timeout_is_a_deadline_in_seconds(given_, wait_s_max):
    assert wishes(x_stainless_read_timeout=given_).wait_s_max == wait_s_max


@pytest.mark.parametrize("given_", [b"", b"None", b"nan", b"inf", b"-1", b"0", b"\xff", b"1,5", b"9" * 5000])
def test_an_sdks_read_timeout_that_makes_no_sense_is_ignored(given_):
    assert wishes(x_stainless_read_timeout=given_).wait_s_max is None


def test_the_official_sdk_is_understood_as_it_is():
    """Its own timeout becomes the deadline; headers that its user sets come through."""
    client = OpenAI(api_key="k", base_url="http://127.0.0.1:1", timeout=12.5)
    options = FinalRequestOptions(method="post", url="/chat/completions", headers={"X-Sluice-Class": "batch"})
    request = client._build_request(options, retries_taken=0)  # what would go out
    headers = {name.lower(): value for name, value in request.headers.raw}
    assert read_wishes(headers, STANDARD) == Wishes(service_class=BATCH, wait_s_max=12.5)


@pytest.mark.parametrize(
    ("user_agent", "is_old"),
    [
        (b"OpenAI/Go 3.42.0", True),
        (b"OpenAI/Go 3.9.1", True),
        (b"OpenAI/Go 1.12.0", True),
        (b"OpenAI/Go 0.1.0-beta.2", True),
        (b"OpenAI/Go 2", True),
        (b"OpenAI/Go 3.42.0 (linux)", True),
        (b"OpenAI/Go 3.43.0", False),
        (b"OpenAI/Go 3.43", False),
        (b"OpenAI/Go 3.100.0", False),
        (b"OpenAI/Go 4.0.0", False),
        (b"OpenAI/Go 12345678901.0", False),
        (b"OpenAI/Go ", False),
        (b"OpenAI/Go dev", False),
        (b"OpenAI/Python 1.0.0", False),
        (b"my-app OpenAI/Go 1.0.0", False),
        (b"", False),
    ],
)
def test_a_go_sdk_before_3_43_is_known_by_its_user_agent(user_agent, is_old):
    assert wishes(user_agent=user_agent).is_old_go is is_old


values = st.binary(max_size=80) | st.sampled_from(
    [b"batch", b"none", b"600", b"1e400", b"OpenAI/Go 3.", b"-0", b"1" * 99]
)


@given(st.dictionaries(st.sampled_from(NAMES), values), st.sampled_from(ServiceClass))
@example({b"x-stainless-read-timeout": b"1" * 60_000}, STANDARD)
@example({b"user-agent": b"OpenAI/Go " + b"9" * 60_000}, STANDARD)
@example({b"x-request-deadline-ms": b"1" * 60_000}, STANDARD)
def test_whatever_bytes_come_they_are_read_or_refused(headers, most_urgent):
    try:
        read = read_wishes(headers, most_urgent)
    except Refused as refused:
        assert_names_its_header(refused, headers)
    else:
        assert read.service_class >= most_urgent
        assert read.wait_s_max is None or 0 < read.wait_s_max <= DEADLINE_MS_MAX / 1000


def assert_names_its_header(refused, headers):
    assert refused.outcome in {Outcome.BAD_REQUEST, Outcome.CLASS_NOT_ALLOWED}
    assert refused.param.lower().encode() in headers
    assert json.loads(refused.body())["error"]["message"] == refused.message
    assert len(refused.message) < 500
