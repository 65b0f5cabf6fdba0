"""
Turns: who goes next among those that have something waiting, by virtual counters that only service moves.

The algorithm is VTC (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): the smallest counter is
next and is charged for what it gets; who returns is lifted to the smallest counter of those that wait (if none does, to
that of the last one served), so that absence earns no credit. `stores/lua/line.lua` does the same over Redis.
"""

import heapq
from dataclasses import dataclass, field, replace
from typing import Self

COUNTERS_KEPT_MIN = 64  # below this, looking for counters to forget costs more than keeping them


@dataclass(slots=True)
class Turns:
    """Counters of names in whole virtual units. Joining, leaving, serving and settling are O(log n) amortised."""

    _counters: dict[str, int] = field(default_factory=dict)
    # the backlogged ones, and the number of the ticket that made them so
    _joined: dict[str, int] = field(default_factory=dict)
    # (counter, joined, name); an entry that is no longer true is dropped when met
    _order: list[tuple[int, int, str]] = field(default_factory=list)
    _floor: int = 0  # the counter of the last one served, before its charge
    _counters_max: int = COUNTERS_KEPT_MIN

    def join(self, name: str, number: int) -> None:
        """Let *name*, which has something waiting from now on, take part; of equals the smaller *number* is first."""
        smallest = self._true_first()[0] if self._joined else self._floor
        self.place(name, number, max(self._counters.get(name, 0), smallest))

    def place(self, name: str, number: int, counter: int) -> None:
        """Let *name* take part with a counter that is known."""
        self._joined[name] = number
        self._set(name, counter)

    def leave(self, name: str) -> None:
        """Let *name*, which has nothing waiting any more, take part no longer."""
        del self._joined[name]
        self._forget()

    def first(self) -> str:
        """Give the name whose turn it is; someone must take part."""
        return self._true_first()[2]

    def charge(self, name: str, amount: int) -> None:
        """Charge *name*, whose turn it is and which takes it."""
        self._floor = self._counters[name]
        self._set(name, self._floor + amount)

    def settle(self, name: str, amount: int) -> None:
        """Correct an earlier charge. A counter that was forgotten would be lifted anyway: nothing to correct."""
        if name in self._counters:
            self._set(name, max(0, self._counters[name] + amount))

    def counter(self, name: str) -> int:
        """Give the counter of *name*, 0 if it is not known."""
        return self._counters.get(name, 0)

    def copy(self) -> Self:
        """Make another that can be played forward."""
        return replace(self, _counters=self._counters.copy(), _joined=self._joined.copy(), _order=self._order.copy())

    def __contains__(self, name: str) -> bool:
        return name in self._joined

    def __len__(self) -> int:
        return len(self._joined)

    def _set(self, name: str, counter: int) -> None:
        self._counters[name] = counter
        if name in self._joined:
            heapq.heappush(self._order, (counter, self._joined[name], name))

    def _true_first(self) -> tuple[int, int, str]:
        while not self._is_true(self._order[0]):
            heapq.heappop(self._order)
        return self._order[0]

    def _is_true(self, entry: tuple[int, int, str]) -> bool:
        counter, joined, name = entry
        return self._joined.get(name) == joined and self._counters[name] == counter

    def _forget(self) -> None:
        """Drop counters that lifting would overrule anyway; rarely enough to cost O(1) per turn on average."""
        if len(self._counters) > self._counters_max:
            kept = {name: c for name, c in self._counters.items() if c > self._floor or name in self._joined}
            self._counters = kept
            self._counters_max = 2 * len(kept) + COUNTERS_KEPT_MIN
