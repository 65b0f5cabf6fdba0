"""What can go wrong between here and the hub, and what to do about it, a sentence or two each."""

import errno
from typing import Any

from workers.hub.ids import ModelRef

_TOKEN = "SLUICE_HUB__TOKEN"  # noqa: S105  the name of the variable, not a secret


def sentence(ref: ModelRef, event: dict[str, Any], *, has_token: bool) -> str:
    """Explain an "error" or "pause" event of the SDK's process (workers/hub/sdk.py) about *ref*."""
    status = event.get("status")
    if event["kind"] == "missing":
        return (
            f"{ref} is not on this disk, and the ModelScope SDK that would download it is not installed. "
            "Install the extra worker-cpu or worker-gpu, or bring the model in with `sluice models import`."
        )
    if status is not None:
        return _refused(ref, int(status), event, has_token=has_token)
    if event.get("errno") is not None and event["kind"] in {"OSError", "PermissionError"}:
        return _disk(ref, event)
    if event["kind"].startswith("File"):
        return (
            f"ModelScope delivers other bytes for {ref} than it lists: {event['text']}. They were thrown away, three "
            "times. Try again later; if it stays so, report the file to ModelScope or pin another --revision."
        )
    return (
        f"No connection to ModelScope for {ref} ({event['kind']}). Check the network, the proxy (HTTPS_PROXY) and "
        "SLUICE_HUB__ENDPOINT. What came so far is kept; without a network, use `sluice models import`."
    )


def _refused(ref: ModelRef, status: int, event: dict[str, Any], *, has_token: bool) -> str:
    wait = event.get("retry_after_s")
    again = f" Try again in {wait:.0f} s." if wait else " Try again later."
    match status:
        case 401:
            what = "the token is not valid, or has expired" if has_token else "it asks for a token"
            return f"ModelScope does not let us at {ref}: {what} (401). Set {_TOKEN} to one from modelscope.cn."
        case 403:
            whose = "the token's account" if has_token else "whoever has no token"
            return (
                f"ModelScope does not let {whose} at {ref} (403). It is private or gated: ask for access on its page, "
                f"and set {_TOKEN} to a token of an account that has it."
            )
        case 404:
            return (
                f"ModelScope has no {ref.id} at revision {ref.revision} (404). Check the spelling and --revision; "
                f"a private model looks the same without {_TOKEN}."
            )
        case 429:
            return f"ModelScope has too many requests from here (429).{again} What came so far is kept."
        case _ if status >= 500:
            return f"ModelScope fails at {ref} ({status}).{again} What came so far is kept."
    return f"ModelScope refuses {ref} ({status}: {event['text']}). Check the id and --revision."


def _disk(ref: ModelRef, event: dict[str, Any]) -> str:
    if event["errno"] in {errno.ENOSPC, errno.EDQUOT}:
        return (
            f"The disk became full while {ref} was downloaded. What came is kept: free some space, "
            "or choose another folder with SLUICE_HUB__DIR, and run it again."
        )
    return f"{ref} cannot be written to this disk ({event['text']}). Check the folder's permissions."
