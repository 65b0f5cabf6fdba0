"""What is printed when everything runs: a key, and two ways to use it that work as printed."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from gateway.commands.local.home import Place

_TEXT = """
Sluice serves {model} at {url}/v1

  key     {key}
  curl    {curl}

  Python, with the official SDK (pip install openai):

from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "{prompt}"}}],
    max_tokens={max_tokens},
)
print(answer.choices[0].message.content)
print(answer.usage)

  Logs: {home}/logs   Secrets: {home}/credentials.json
  Status: {sluice} status{option}   Usage: {sluice} report usage{option}
  Ctrl-C stops everything; what is there is kept for the next start.
"""
PROMPT = "Hello! Who are you?"
MAX_TOKENS = 32


def chat_body(model: str) -> dict[str, Any]:
    """Give the request that is printed, and sent once before it is printed."""
    return {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": MAX_TOKENS}


def curl_line(url: str, key: str, model: str) -> str:
    """Give a command that sends `chat_body`, on one line, for any POSIX shell."""
    return shlex.join(
        [
            *("curl", "-s", f"{url}/v1/chat/completions"),
            *("-H", f"Authorization: Bearer {key}"),
            *("-H", "Content-Type: application/json"),
            *("-d", json.dumps(chat_body(model))),
        ]
    )


def welcome(place: Place, key: str, home: str) -> str:
    """Give the text that ends a start. *home* is as the user would type it."""
    return _TEXT.format(
        model=place.model,
        url=place.url,
        key=key,
        curl=curl_line(place.url, key, place.model),
        prompt=PROMPT,
        max_tokens=MAX_TOKENS,
        home=home,
        sluice=_sluice(),
        option="" if home == ".sluice" else f" --home {shlex.quote(home)}",
    )


def _sluice() -> str:
    """Give the command as it can be typed here: by its name if that is on the PATH, else by its path."""
    own = Path(sys.executable).with_name("sluice")
    found = shutil.which("sluice")
    if found and Path(found) == own:
        return "sluice"
    return shlex.quote(os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own))


def proof(answer: dict[str, Any]) -> str:
    """Sum up the first answer: who made it, and how many tokens it cost."""
    usage = answer["usage"]
    return (
        f"a real completion: {usage['prompt_tokens']} prompt + {usage['completion_tokens']} completion tokens, "
        f"finish_reason {answer['choices'][0]['finish_reason']!r}"
    )
