"""
Going on from any token, on a real engine: the text, the ids and the usage are those of the undisturbed stream.

The tiny model writes many characters whose bytes are spread over tokens, and bytes that are no character at all, so
that seams lie in the middle of them.
"""

import json

import pytest

from gateway.core.continuation import (
    PATH,
    REPLACEMENT,
    Discontinued,
    Transcript,
    continuation_body,
)
from gateway.core.request import parse_chat, parse_completion
from gateway.core.sse import DONE, UsageTracker
from tests.contract.conftest import CONTEXT_TOKENS

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

TOKENS = 32
GREEDY = {"model": "tiny", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
CHAT = GREEDY | {"messages": [{"role": "user", "content": "Hello river 水闸 😀 how are you?"}]}
PROMPT = GREEDY | {"prompt": "the gate 水 ope"}


def split(stream):
    """Give a stream's frames, without [DONE]."""
    return [frame + b"\n\n" for frame in stream.removesuffix(DONE).split(b"\n\n") if frame]


def says(frames):
    """Give the text of frames, what they end with, and the usage that is billed for them."""
    text, reason, tracker = "", None, UsageTracker(1, b"{}")
    for frame in frames:
        tracker.feed(frame)
        for choice in json.loads(frame[6:])["choices"]:
            text += (choice["delta"].get("content") or "") if "delta" in choice else choice["text"]
            reason = choice["finish_reason"] or reason
    return text, reason, (tracker.usage.prompt, tracker.usage.completion)


class Client:
    """The gateway's part, one call at a time."""

    def __init__(self, http, body):
        parse = parse_completion if "prompt" in body else parse_chat
        self.http, self.path = http, "/v1/completions" if "prompt" in body else "/v1/chat/completions"
        self.request = parse(json.dumps(body).encode(), None, continues=True)
        assert self.request.is_continuable

    def post(self, path, body):
        answer = self.http.post(path, content=body, headers={"content-type": "application/json"})
        answer.raise_for_status()
        return answer.content

    def whole(self):
        return split(self.post(self.path, self.request.body))

    def seam(self, transcript):
        seam = transcript.seam()
        while seam.doubtful:
            asked = json.dumps({"model": "tiny", "tokens": list(seam.window)}).encode()
            if not json.loads(self.post("/detokenize", asked))["prompt"].endswith(REPLACEMENT):
                break
            seam = seam.shortened()
        return seam

    def cut_and_continued(self, frames, *cuts):
        """Break *frames* off after each of the *cuts*, counted from the frame it went on with; gives all of them."""
        transcript, shown, translate = Transcript(self.request), [], lambda run: run
        for cut in cuts:
            shown += [transcript.take(frame) for frame in map(translate, frames[:cut])]
            if transcript.is_finished:
                return [frame for frame in [*shown, transcript.ending()] if frame]
            seam = self.seam(transcript)
            body = continuation_body(self.request, seam, CONTEXT_TOKENS)
            translate = transcript.resume(seam).feed
            frames = split(self.post(PATH, body))
        return shown + [transcript.take(frame) for frame in map(translate, frames)]


@pytest.mark.parametrize(
    "body",
    [
        CHAT,
        PROMPT | {"repetition_penalty": 1.3, "logit_bias": {"300": 5}},
        CHAT | {"stream_interval": 5},
        CHAT | {"stop": ["river gate", "水闸"], "min_tokens": 4},
        CHAT | {"stop": ["<never>"], "include_stop_str_in_output": True, "stream_interval": 3},
    ],
    ids=["chat", "completion", "several tokens a frame", "stop", "stop shown"],
)
def test_a_stream_that_is_cut_after_any_frame_goes_on_word_for_word(real, body):
    client = Client(real, body)
    frames = client.whole()
    expected = says(frames)
    for cut in range(1, len(frames)):
        assert says(client.cut_and_continued(frames, cut)) == expected, cut


def test_a_stop_string_that_is_cut_in_two_still_ends_the_stream(real):
    whole = says(Client(real, CHAT).whole())[0]
    middle = next(at for at in range(40, len(whole)) if REPLACEMENT not in whole[at : at + 9])
    client = Client(real, CHAT | {"stop": [whole[middle : middle + 9]]})
    frames = client.whole()
    expected = says(frames)
    assert expected[1] == "stop"
    for cut in range(1, len(frames)):
        assert says(client.cut_and_continued(frames, cut)) == expected, cut


def test_a_stream_that_is_cut_again_and_again_is_still_the_same(real):
    client = Client(real, CHAT)
    frames = client.whole()
    for step in (1, 5):
        cut = client.cut_and_continued(frames, 2, *[step] * (TOKENS // step))
        assert says(cut) == says(frames), step


def test_a_sampled_stream_goes_on_to_its_length_with_no_character_torn(real):
    client = Client(real, CHAT | {"temperature": 0.8, "seed": 1})
    frames = client.whole()
    for cut in range(2, len(frames), 2):
        text, reason, usage = says(client.cut_and_continued(frames, cut))
        assert text.startswith(says(frames[:cut])[0])
        assert "user\n" not in text, "an engine whose prompt ends inside a character writes the prompt out"
        assert (reason, usage[1]) == ("length", TOKENS)


def test_a_sampled_stream_with_a_stop_string_is_not_continued_where_text_was_held_back(real):
    """Where by chance nothing was, another engine says nothing again, and may go on."""
    client = Client(real, CHAT | {"temperature": 0.8, "stop": ["<never>"]})
    transcript, refused = Transcript(client.request), 0
    for frame in client.whole()[:-2]:
        transcript.take(frame)
        try:
            assert not transcript.seam().overlap
        except Discontinued as reason:
            refused += "sampling" in str(reason)
    assert refused > 0
