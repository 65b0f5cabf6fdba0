"""
Which streams another engine could go on with, going by what their requests ask for.

Tried on vLLM 0.32, whose text completions take a prompt of token ids and know most of what chats know.
"""

from collections.abc import Mapping
from typing import Any

# What means the same to the engine that goes on; stateless, or counting prompt and answer alike.
KEPT = frozenset(
    (
        "model",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "seed",
        "stop",
        "stop_token_ids",
        "include_stop_str_in_output",
        "ignore_eos",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "logit_bias",
        "allowed_token_ids",
        "cache_salt",
        "priority",
        "stream_interval",
    )
)
# What has done its work when the prompt is there, or does not touch the tokens.
_USED_UP = frozenset(
    (
        "messages",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "n",
        "stream",
        "stream_options",
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "session_id",
        "request_id",
        "add_generation_prompt",
        "add_special_tokens",
        "continue_final_message",
        "documents",
        "chat_template",
        "chat_template_kwargs",
        "reasoning_effort",
        "include_reasoning",
        "verbosity",
        "truncate_prompt_tokens",
        "truncation_side",
        "parallel_tool_calls",
        "tool_choice",
        "return_token_ids",
        "length_penalty",
    )
)
_KNOWN = KEPT | _USED_UP


def is_continuable(data: Mapping[str, Any], *, choices: int) -> bool:
    """
    Tell whether another engine could go on with the stream that the body *data* asks for.

    Anything that is not known to be the same there is taken not to be: tools, guided output, log probabilities,
    penalties on what the answer already holds. What is empty, zero or false asks for nothing.
    """
    for name, value in data.items():
        if name not in _KNOWN and value and not (name == "response_format" and value == {"type": "text"}):
            return False
    messages = data.get("messages") or []
    return choices == 1 and isinstance(messages, list) and all(map(_is_text, messages))


def _is_text(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    return not isinstance(content, list) or all(
        isinstance(part, str) or (isinstance(part, dict) and part.get("type") == "text") for part in content
    )
