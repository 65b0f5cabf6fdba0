"""What is compared of an answer: statuses, key trees with types, the order of frames, headers that matter."""

import json
import re
from itertools import groupby

HEADERS = ("content-type", "allow", "transfer-encoding")


def shape(value):
    """Give the tree of keys, in order, with the types of what is in it; of a list, the different shapes it holds."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return ["ids"] if value and isinstance(value[0], int) else [kind for kind, _ in groupby(map(shape, value))]
    return type(value).__name__


def key_order(value):
    """Give all keys in the order they are written; of a list, the different orders it holds."""
    if isinstance(value, dict):
        return [[key, key_order(part)] for key, part in value.items()]
    return [order for order, _ in groupby(map(key_order, value))] if isinstance(value, list) else None


def frames(answer):
    """Give the frames of an event stream; each must be `data: …` and the last one [DONE]."""
    parts = answer.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    assert all(part.startswith("data: ") for part in parts[:-1])
    return [json.loads(part[6:]) for part in parts[:-2]]


def by_choice(frame):
    """Give the choice that *frame* belongs to; what belongs to none ends the stream."""
    choices = frame.get("choices")
    return choices[0]["index"] if choices else float("inf")


def described(answer):
    """Describe *answer* without what may differ: ids, times, texts, and how many tokens share a frame."""
    headers = {name: answer.headers.get(name) for name in HEADERS}
    headers["load"] = re.sub(r"[\d.]+", "N", answer.headers.get("endpoint-load-metrics", ""))
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        ordered = sorted(frames(answer), key=by_choice)  # how choices take turns is the engine's mood
        body = [kind for kind, _ in groupby((shape(frame), key_order(frame)) for frame in ordered)]
    elif answer.headers.get("content-type", "").startswith("application/json"):
        body = shape(answer.json()), key_order(answer.json())
    else:
        body = bool(answer.content)
    return {"status": answer.status_code, "headers": headers, "body": body}
