"""The board of demand that several gateways share through Redis."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

import structlog

from gateway.core.demand import Learnt, Share
from gateway.errors import StoreUnavailable
from gateway.ports.demand import Shares
from gateway.stores.redis_client import RedisClient, Script, redis_answering

_KEYS = [f"sluice:{{scale}}:{name}" for name in ("words", "heard", "learnt")]
_SCRIPT = Script("demand")
_Value = TypeVar("_Value", Share, Learnt)

log = structlog.get_logger()


class RedisDemand:
    """A DemandBoard in Redis: one small script per exchange. *owner* is new at every start of a process."""

    def __init__(self, redis: RedisClient, owner: str, *, lease_s: float = 4.0, store_timeout_s: float = 0.5) -> None:
        self.is_up = True
        self.others: Sequence[Shares] = ()
        self.learnt: Mapping[str, Learnt] = {}
        self._redis = redis
        self._owner = owner
        self._lease_ms = int(lease_s * 1000)
        self._store_timeout_s = store_timeout_s

    async def exchange(self, own: Shares, learnt: Mapping[str, Learnt]) -> None:
        told = [word for pool, known in learnt.items() for word in (pool, _write(asdict(known)))]
        word = _write({pool: asdict(share) for pool, share in own.items()})
        try:
            async with redis_answering(self._store_timeout_s):
                others, stands = await _SCRIPT.run(self._redis, _KEYS, [self._owner, self._lease_ms, word, *told])
        except StoreUnavailable as error:
            self._note_change(is_up=False, reason=error.reason)
            return
        self._note_change(is_up=True)
        self.others = [_read(Share, json.loads(text)) for text in others]
        pairs = zip(stands[::2], stands[1::2], strict=True)
        self.learnt = _read(Learnt, {pool: json.loads(text) for pool, text in pairs})

    def _note_change(self, *, is_up: bool, reason: str = "") -> None:
        if is_up != self.is_up:
            self.is_up = is_up
            if is_up:
                log.info("demand_shared_again")
            else:
                log.warning("demand_store_lost", reason=reason)

    def __repr__(self) -> str:
        away = "" if self.is_up else ", Redis is away"
        return f"<RedisDemand [{len(self.others)} other gateways{away}]>"


def _write(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _read(kind: type[_Value], said: Mapping[str, Mapping[str, Any]]) -> dict[str, _Value]:
    """Read values by pool; of those that a newer gateway wrote, what is known here."""
    known = {field.name for field in fields(kind)}
    return {pool: kind(**{name: value for name, value in of.items() if name in known}) for pool, of in said.items()}
