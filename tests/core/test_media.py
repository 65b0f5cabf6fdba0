"""Image and audio parts are counted as they stand in a prompt, whatever else stands there."""

import base64
import io
import struct
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.media import BYTES_PER_MS, count_media
from gateway.core.request import parse_chat


def wav(ms=1500, samples_per_s=16_000, channels=1, bits=16):
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((channels, bits // 8, samples_per_s, 0, "NONE", ""))
        sound.writeframes(bytes(samples_per_s * ms // 1000 * channels * bits // 8))
    return file.getvalue()


def audio(data, kind="wav"):
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def image():
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def counted(*parts):
    return count_media([{"role": "user", "content": list(parts)}])


def test_every_image_part_of_every_message_counts_once():
    messages = [
        {"role": "user", "content": [image(), {"type": "text", "text": "and"}, image()]},
        {"role": "assistant", "content": "image_url"},
        {"role": "user", "content": [image()]},
    ]
    assert count_media(messages) == (3, 0)


@pytest.mark.parametrize(
    ("ms", "samples_per_s", "channels", "bits"), [(1500, 16_000, 1, 16), (20, 8000, 1, 8), (61_000, 44_100, 2, 16)]
)
def test_a_wav_file_says_how_long_it_is(ms, samples_per_s, channels, bits):
    assert counted(audio(wav(ms, samples_per_s, channels, bits))) == (0, ms)


def test_several_audio_parts_are_added_up():
    assert counted(audio(wav(1500)), image(), audio(wav(20))) == (1, 1520)


def test_a_wav_file_of_unknown_length_is_as_long_as_its_bytes():
    """A recorder that streams writes the largest length there is."""
    data = wav(1500)
    at = data.index(b"data") + 4
    for length in (0, 0xFFFFFFFF):
        assert counted(audio(data[:at] + struct.pack("<I", length) + data[at + 4 :])) == (0, 1500)


def test_a_wav_file_that_claims_more_sound_than_it_has_is_as_long_as_what_it_has():
    data = wav(1500)
    at = data.index(b"data") + 4
    assert counted(audio(data[:at] + struct.pack("<I", 10**9) + data[at + 4 :])) == (0, 1500)


def test_another_format_counts_by_its_size():
    assert counted(audio(b"\xff\xfb" + bytes(15_998), "mp3")) == (0, 1000)
    assert counted(audio(b"\xff", "mp3")) == (0, 1)


def test_audio_inside_its_url_counts_and_audio_elsewhere_does_not():
    inside = "data:audio/wav;base64," + base64.b64encode(wav(1500)).decode()
    assert counted({"type": "audio_url", "audio_url": {"url": inside}}) == (0, 1500)
    assert counted({"type": "audio_url", "audio_url": {"url": "https://example.com/a.wav"}}) == (0, 0)


@pytest.mark.parametrize(
    "part",
    [
        "text",
        None,
        {},
        {"type": "input_audio"},
        {"type": "input_audio", "input_audio": "x"},
        {"type": "input_audio", "input_audio": {"data": 5}},
        {"type": "audio_url", "audio_url": {"url": None}},
        {"type": ["image_url"]},
        {"type": "video_url", "video_url": {"url": "data:,"}},
    ],
)
def test_what_is_no_part_counts_nothing(part):
    assert counted(part) == (0, 0)


@given(st.binary(max_size=400), st.text(max_size=40))
def test_bytes_of_any_kind_are_measured_without_an_error(data, text):
    for head in (b"", b"RIFF\x00\x00\x00\x00WAVE", b"RIFF\x00\x00\x00\x00WAVEfmt "):
        assert counted(audio(head + data))[1] >= 0
    broken = {"type": "input_audio", "input_audio": {"data": text}}
    assert 0 <= counted(broken)[1] <= len(text) // BYTES_PER_MS + 1


def test_a_request_carries_what_its_messages_hold():
    import json

    body = {"model": "m", "messages": [{"role": "user", "content": [image(), audio(wav(1500))]}]}
    request = parse_chat(json.dumps(body).encode(), None)
    assert (request.images, request.audio_ms) == (1, 1500)
