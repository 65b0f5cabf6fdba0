"""
Image and audio parts of a prompt: how many images there are, and how long the audio is.

An engine counts the tokens that such parts make; this counts the parts themselves, for prices per image and per second.
What is not as OpenAI's API has it counts nothing here: the engine will refuse it.
"""

import base64
import struct
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator
from typing import Any

# What cannot be measured is taken to be of 128 kbit/s, the usual rate of an MP3: 16 bytes are a millisecond.
BYTES_PER_MS = 16

_IMAGE_TYPES = ("image_url", "input_image", "image_embeds")  # a client may write any kind of value there
_HEADER_BYTES = 64 << 10  # of a WAV file, decoded to find where its sound begins
# Formats whose blocks are single samples: PCM, float, A-law, mu-law, and what WAVE_FORMAT_EXTENSIBLE wraps.
_SAMPLE_FORMATS = frozenset({1, 3, 6, 7, 0xFFFE})
_RIFF = struct.Struct("<4sI4s")
_CHUNK = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIH")


def count_media(messages: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Give the number of images in *messages* and the milliseconds of audio, each part rounded up."""
    images = audio_ms = 0
    for part in _parts(messages):
        kind = part.get("type")
        if kind in _IMAGE_TYPES:
            images += 1
        elif kind == "input_audio":
            audio_ms += _audio_ms(part.get("input_audio"))
        elif kind == "audio_url":
            audio_ms += _data_url_ms(part.get("audio_url"))
    return images, audio_ms


def _parts(messages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


def _audio_ms(audio: object) -> int:
    data = audio.get("data") if isinstance(audio, dict) else None
    return encoded_audio_ms(data) if isinstance(data, str) else 0


def _data_url_ms(audio: object) -> int:
    """Measure audio that is inside its URL. What lies elsewhere is fetched by the engine and not seen here: 0."""
    url = audio.get("url") if isinstance(audio, dict) else None
    if not isinstance(url, str) or not url.startswith("data:"):
        return 0
    return encoded_audio_ms(url.partition(",")[2])


def encoded_audio_ms(data: str) -> int:
    """Give the length of base64 *data*: by its header if it is a WAV file, else by its size (BYTES_PER_MS)."""
    size = len(data) * 3 // 4 - data[-2:].count("=")
    try:
        head = base64.b64decode(data[: _HEADER_BYTES // 3 * 4])
    except (Base64Error, ValueError):
        head = b""
    bytes_per_s, sound_bytes = _wav(head, size)
    if not bytes_per_s:
        return -(-size // BYTES_PER_MS)
    return -(-sound_bytes * 1000 // bytes_per_s)


def _wav(head: bytes, size: int) -> tuple[int, int]:
    """Read a WAV file of *size* bytes from its *head*: bytes a second, and bytes of sound; (0, 0) if it is none."""
    if len(head) < _RIFF.size or _RIFF.unpack_from(head)[::2] != (b"RIFF", b"WAVE"):
        return 0, 0
    bytes_per_s, at = 0, _RIFF.size
    while at + _CHUNK.size <= len(head):
        name, length = _CHUNK.unpack_from(head, at)
        at += _CHUNK.size
        if name == b"fmt " and at + _FORMAT.size <= len(head):
            bytes_per_s = _rate(*_FORMAT.unpack_from(head, at))
        elif name == b"data":
            # A recorder that streams does not know the length: it writes 0 or the largest number there is.
            return bytes_per_s, min(length or size, size - at)
        at += length + length % 2
    return 0, 0


def _rate(kind: int, _channels: int, samples_per_s: int, bytes_per_s: int, block_bytes: int) -> int:
    return samples_per_s * block_bytes if kind in _SAMPLE_FORMATS else bytes_per_s
