"""One call to Redis for the holds of one hash tag: how it is put, and what it brings (lua/hold*.lua)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from gateway.core.holds import Ask, Base, BudgetAsk, BudgetStanding, LimitAsk, LimitStanding, Standings
from gateway.core.limits import is_rate
from gateway.stores.hold_sums import Correction, OwnSums, Verdict
from gateway.stores.redis_client import RedisClient, Script

KEPT_AFTER_END_MS = 7 * 86_400_000  # of an account: so late may a spool of a dead gateway still be shipped

_HOLD = Script("hold_nano", "hold_rate", "hold_sums", "hold")
_FORGET = Script("hold_forget")
_NEVER = -1
TENANT_TAG, MODEL_TAG = "tenant:", "model:"


@dataclass(frozen=True, slots=True)
class AccountSums:
    """How an account stands over all gateways; *base* is None if nobody has said it."""

    account: str
    base: Base | None
    unshipped: int
    held: int

    def leaves(self, amount: int) -> int:
        """Tell how much of *amount* is neither spent nor held."""
        return amount - (self.base.spent if self.base else 0) - self.unshipped - self.held


@dataclass(slots=True)
class Asked:
    """What is asked in a call: to take, or to *look*; *is_blind*: where the Journal did not say, nothing is spent."""

    ask: Ask
    is_look: bool = False
    is_blind: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """
    What became of one of them: a verdict, at what time of Redis.

    Else it was not decided, since a base *is_unknown*, or since other gateways may not have stated their sums: by then
    it takes *young_s*.
    """

    verdict: Verdict
    at_s: float
    is_unknown: bool = False
    young_s: float = 0.0


@dataclass(slots=True)
class HoldCall:
    """A call in the making. *tag* is what its keys have in common."""

    tag: str
    sums: OwnSums
    owner: str
    lease_s: float
    settled_s: float
    asked: list[Asked] = field(default_factory=list)
    corrections: Sequence[Correction] = ()
    accounts: dict[str, BudgetAsk | None] = field(default_factory=dict)  # to be stated, with whom they are of
    running: set[str] = field(default_factory=set)  # ids of limits of what is under way, to be stated
    _keys: dict[str, int] = field(default_factory=dict)

    async def run(self, redis: RedisClient) -> tuple[list[Answered], list[AccountSums]]:
        """Make it; gives the answers in order, and how the accounts stand that it stated. Raises as redis-py."""
        for asked in self.asked:
            self.accounts.update({budget.account: budget for budget in asked.ask.budgets})
            self.running.update(limit.id for limit in asked.ask.limits if not is_rate(limit.metric))
        self._keys = {}
        for name in ("owners", "born", "accounts"):
            self._key(name)
        call = json.dumps(self._told())
        at_s, text = await _HOLD.run(redis, list(self._keys), [call])
        said = json.loads(text)
        answers = [
            _answered(asked.ask, answer, float(at_s)) for asked, answer in zip(self.asked, said["asks"], strict=True)
        ]
        return answers, [
            self._sums(account, *sums) for account, sums in zip(self.accounts, said["accounts"] or (), strict=True)
        ]

    def _told(self) -> dict[str, Any]:
        return {
            "owner": self.owner,
            "lease_s": self.lease_s,
            "settled_s": self.settled_s,
            "running": [
                [self._running_key(limit_id), self.sums.running[limit_id]] for limit_id in sorted(self.running)
            ],
            "accounts": [self._account(account, ask) for account, ask in self.accounts.items()],
            "corrections": [
                [self._rate_key(each.limit.id), each.limit.amount, each.by, f"{each.taken_s:.6f}"]
                for each in self.corrections
            ],
            "asks": [self._ask(asked) for asked in self.asked],
        }

    def _ask(self, asked: Asked) -> dict[str, Any]:
        return {
            "is_look": asked.is_look,
            "is_blind": asked.is_blind,
            "limits": [self._limit(limit) for limit in asked.ask.limits],
            "budgets": [
                [self._account_key(each.account), str(each.amount), str(each.quantity), int(each.is_hard)]
                for each in asked.ask.budgets
            ],
        }

    def _limit(self, limit: LimitAsk) -> list[int]:
        if is_rate(limit.metric):
            return [self._rate_key(limit.id), limit.amount, limit.quantity, 1]
        return [self._running_key(limit.id), limit.amount, limit.quantity, 0]

    def _account(self, account: str, ask: BudgetAsk | None) -> list[int | str]:
        base, sums = self.sums.bases.get(account), self.sums
        known = [str(base.version), str(base.spent)] if base else ["", "0"]
        expires = "" if ask is None or ask.ends_ms is None else str(ask.ends_ms + KEPT_AFTER_END_MS)
        return [
            self._account_key(account),
            account,
            *known,
            str(sums.held[account]),
            str(sums.spent[account]),
            expires,
        ]

    def _sums(self, account: str, version: str, base: str, unshipped: str, held: str) -> AccountSums:
        known = Base(self.tag.removeprefix(TENANT_TAG), account, int(version), int(base)) if version else None
        return AccountSums(account, known, int(unshipped), int(held))

    def _rate_key(self, limit_id: str) -> int:
        return self._key(f"rate:{limit_id}")

    def _running_key(self, limit_id: str) -> int:
        return self._key(f"running:{limit_id}")

    def _account_key(self, account: str) -> int:
        return self._key(f"account:{account}")

    def _key(self, name: str) -> int:
        """Give the number of a key among those of the call, counted from 1 as Lua does."""
        return self._keys.setdefault(key_of(self.tag, name), len(self._keys) + 1)


def key_of(tag: str, name: str) -> str:
    """Name a key: all of one tag lie together, in a cluster too."""
    return f"sluice:holds:{{{tag}}}:{name}"


async def forget(redis: RedisClient, tag: str, owner: str) -> None:
    """Drop the sums of a dead owner. Raises as redis-py."""
    await _FORGET.run(redis, [key_of(tag, "accounts")], [owner, key_of(tag, "account:")])


def _answered(ask: Ask, said: dict[str, Any], at_s: float) -> Answered:
    limits = tuple(
        LimitStanding(limit, int(used), None if clears < 0 else float(clears))
        for limit, (used, clears) in zip(ask.limits, said["limits"] or (), strict=True)
    )
    budgets = tuple(_budget(budget, sums) for budget, sums in zip(ask.budgets, said["budgets"] or (), strict=True))
    standings = Standings(limits, budgets)
    if said["state"] == "refused":
        wait_s = inf if said["wait"] == _NEVER else None if said["wait"] < 0 else float(said["wait"])
        return Answered(Verdict(standings, int(said["refused"]) - 1, wait_s), at_s)
    is_young = said["state"] == "young"
    young_s = float(said["wait"]) if is_young else 0.0
    return Answered(Verdict(standings), at_s, is_unknown=said["state"] == "unknown", young_s=young_s)


def _budget(ask: BudgetAsk, sums: Sequence[str]) -> BudgetStanding:
    spent, unshipped, held = map(int, sums)
    return BudgetStanding(ask, spent, unshipped, held)
