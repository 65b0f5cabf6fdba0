"""
The most that a request can cost, told before it starts: what a hard budget holds.

A token of Qwen's tokenizers, as of any byte-level BPE, stands for one byte of text at least, and every byte of a
message's text is in the body. To that comes what a chat template adds, and what images and audio are turned into.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from gateway.core.prices import PriceVersion, Tier, Unit
from gateway.core.rating import charge, cost_nano, is_batch
from gateway.core.request import BYTES_PER_TOKEN, ChatRequest, splice
from gateway.core.usage import Usage

# Qwen's templates write up to 170 tokens before the tools and 25 where there is no system message; with room to spare.
TEMPLATE_TOKENS = 512
IMAGE_TOKENS_MAX = 16_384  # Qwen2-VL and its successors: at most 12,845,056 pixels, 784 to a token
AUDIO_MS_PER_TOKEN = 40  # Qwen2-Audio and its successors: 25 tokens a second
TOOLS_FACTOR = 2  # a template may write JSON with spaces that the body does not have: one for each separator at most

# Parts of a message that have a bound here. Audio or video behind an address has none before it is fetched.
_BOUNDED_PARTS = frozenset({"text", "refusal", "thinking", "image_url", "input_image", "input_audio"})
# Members that can make a prompt longer than its bytes, or an image larger than its bound.
_UNBOUNDED_MEMBERS = ("chat_template", "mm_processor_kwargs")


@dataclass(frozen=True, slots=True)
class Reach:
    """How much a request may use: tokens of the prompt, of all its answers together, images, audio."""

    prompt: int
    completion: int
    images: int = 0
    audio_ms: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion


def bounded(request: ChatRequest, max_tokens: int) -> ChatRequest:
    """Give *request* with a bound on its answers, in its body too: its own if it has one, else *max_tokens*."""
    if request.max_tokens is not None:
        return request
    body = splice(request.body.decode(), {"max_tokens": max_tokens}).encode()
    return replace(request, max_tokens=max_tokens, body=body)


def unbounded_part(request: ChatRequest) -> str | None:
    """Name what of *request* has no bound that can be told before it starts; None if all has."""
    data = json.loads(request.body)
    if found := next((name for name in _UNBOUNDED_MEMBERS if data.get(name)), None):
        return found
    kinds = (part.get("type") for part in _parts(data))
    return next((f"a part of type {kind!r}" for kind in kinds if kind not in _BOUNDED_PARTS), None)


def at_most(request: ChatRequest) -> Reach:
    """Give what a `bounded` request uses at most."""
    assert request.max_tokens is not None, "a request is bounded before its worst case is told"
    media = request.images * IMAGE_TOKENS_MAX + -(-request.audio_ms // AUDIO_MS_PER_TOKEN)
    text = len(request.body) * (TOOLS_FACTOR if b'"tool' in request.body else 1)
    completion = request.max_tokens * request.n
    return Reach(text + TEMPLATE_TOKENS + media, completion, request.images, request.audio_ms)


def expected(request: ChatRequest) -> Reach:
    """Give what a request is expected to use: what rates are charged when it arrives."""
    answer = min(request.answer_tokens, request.max_tokens or request.answer_tokens)
    return Reach(len(request.body) // BYTES_PER_TOKEN, answer * request.n, request.images, request.audio_ms)


def started(request: ChatRequest, slice_tokens: int) -> Reach:
    """Give what a request has used when it has been answered its first slice: what a soft budget holds at first."""
    slice_ = min(slice_tokens, request.max_tokens or slice_tokens) * request.n
    return replace(expected(request), completion=slice_)


def as_usage(reach: Reach) -> Usage:
    """Give it as tokens alone."""
    return Usage(reach.prompt, reach.completion)


def most_nano(reach: Reach, price: PriceVersion, service_class: str) -> int:
    """Give the most that *reach* costs: each unit at the dearest tier that its prompt can come to."""
    tiers = [tier for tier in price.tiers if tier.from_tokens <= reach.prompt]
    dearest = Tier(0, {unit: max(tier.of(unit) for tier in tiers) for unit in Unit})
    dearer = {
        Unit.INPUT: max(dearest.of(Unit.INPUT), dearest.of(Unit.CACHED_INPUT)),
        Unit.OUTPUT: max(dearest.of(Unit.OUTPUT), dearest.of(Unit.REASONING)),
    }
    worst = replace(price, tiers=(replace(dearest, femto={**dearest.femto, **dearer}),))
    counted = {
        Unit.INPUT: reach.prompt,
        Unit.OUTPUT: reach.completion,
        Unit.IMAGE: reach.images,
        Unit.AUDIO: reach.audio_ms,
    }
    return cost_nano(charge(counted, worst, 0, is_batch=is_batch(service_class))) + 1  # above what rounding can add


def _parts(data: dict[str, Any]) -> list[dict[str, Any]]:
    contents = [message.get("content") for message in data.get("messages") or ()]
    return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
