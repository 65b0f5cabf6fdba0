"""What is read back from a spool's bytes, whole or damaged."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.usage import Usage
from gateway.stores.spool_format import (
    Closed,
    Opened,
    Progressed,
    encode_close,
    encode_open,
    encode_progress,
    scan,
)
from tests.meter_events import event, opened

texts = st.text(max_size=30)
tokens = st.integers(min_value=0, max_value=1 << 60)


@st.composite
def events(draw):
    prompt = draw(tokens)
    return event(
        draw(st.integers(min_value=0, max_value=1 << 64)),
        model=draw(texts),
        project=draw(texts),
        prompt_tokens=prompt,
        cached_tokens=draw(st.integers(min_value=0, max_value=prompt)),
        completion_tokens=draw(tokens),
        ttft_ms=draw(st.none() | tokens),
    )


closes = events().map(lambda made: (encode_close(made), Closed(made)))
opens = st.tuples(events(), tokens).map(lambda made: (encode_open(*made), Opened(made[1], made[0])))
usages = st.builds(Usage, tokens, tokens, tokens, tokens)
progresses = st.tuples(texts, usages, tokens).map(
    lambda made: (encode_progress(*made), Progressed(made[2], made[0], made[1]))
)
records = st.lists(closes | opens | progresses, min_size=1, max_size=6)


@given(records)
def test_records_come_back_as_they_were_written(written):
    found = scan(b"".join(data for data, _ in written))
    assert found.records == [record for _, record in written]
    assert (found.damage, found.torn_bytes) == ([], 0)


@given(records)
def test_a_write_cut_short_at_any_byte_loses_only_the_record_that_was_cut(written):
    *whole, (last, _) = written
    before = b"".join(data for data, _ in whole)
    for cut in range(len(last)):
        found = scan(before + last[:cut])
        assert found.records == [record for _, record in whole]
        assert (found.damage, found.torn_bytes) == ([], cut)


@given(records, records, st.data())
def test_one_flipped_bit_loses_one_record_and_says_where(before, after, data):
    """Also in a length: what follows is found again by its own checksum."""
    victim, _ = data.draw(closes | opens | progresses)
    bit = data.draw(st.integers(min_value=0, max_value=8 * len(victim) - 1))
    broken = bytearray(victim)
    broken[bit // 8] ^= 1 << bit % 8
    head, tail = (b"".join(part for part, _ in records) for records in (before, after))
    found = scan(head + bytes(broken) + tail)
    assert found.records == [record for _, record in before + after]
    assert found.damage == [(len(head), len(victim))]
    assert found.torn_bytes == 0


@given(records, st.binary(min_size=1, max_size=200))
def test_garbage_between_records_is_reported_and_passed_over(written, garbage):
    data = b"".join(part for part, _ in written)
    found = scan(data + garbage + data)
    assert found.records == [record for _, record in written] * 2
    assert found.damage == [(len(data), len(garbage))]


def test_zeroes_at_the_end_are_a_torn_tail_not_empty_records():
    data = encode_close(event(1))
    found = scan(data + bytes(4096))
    assert found.records == [Closed(event(1))]
    assert found.torn_bytes == 4096


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little") + payload


@pytest.mark.parametrize("payload", [b'["C",{"id":"x"}]', b'["Z",1]', b'["C",1]', b'["P",1]', b"1", b"\xff"])
def test_a_sound_frame_that_makes_no_sense_is_damage(payload):
    """So it is kept aside for a person rather than dropped."""
    found = scan(encode_close(event(1)) + frame(payload) + encode_close(event(2)))
    assert found.records == [Closed(event(1)), Closed(event(2))]
    assert found.damage == [(len(encode_close(event(1))), len(frame(payload)))]


def test_a_field_that_a_newer_version_added_loses_no_tokens():
    payload = encode_close(event(1))[8:].replace(b'"tenant"', b'"price_version":3,"tenant"')
    assert scan(frame(payload)).records == [Closed(event(1))]


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\U0001f600" * 200_000, "\x00" * 100_000, "\ud800" * 50_000])
def test_a_text_of_any_length_still_makes_a_record_that_is_read(text):
    (record,) = scan(encode_close(event(1, model=text))).records
    assert record.event.completion_tokens == event(1).completion_tokens
    assert text.startswith(record.event.model)


def test_open_has_no_usage_to_lose():
    assert scan(encode_open(opened(1), 5)).records == [Opened(5, opened(1))]
