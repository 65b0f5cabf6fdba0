"""
Turns: who goes next among those that have something waiting, by virtual counters that only service moves.

The algorithm is VTC (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): the smallest counter is
next and is charged for what it gets; who returns is lifted to the smallest counter of those that wait (if none does, to
that of the last one served), so that absence earns no credit. `stores/lua/turns.lua` does the same over Redis.
"""

import heapq
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class Turns:
    """Counters of names in whole virtual units. Joining, leaving, serving and settling are O(log n) amortised."""

    _counters: dict[str, int] = field(default_factory=dict)
    # the backlogged ones, and the number of the ticket that made them so
    _joined: dict[str, int] = field(default_factory=dict)
    # (counter, joined, name); an entry that is no longer true is dropped when met
    _order: list[tuple[int, int, str]] = field(default_factory=list)
    # (counter, name) of those that do not take part; an entry that is no longer true is dropped when met
    _idle: list[tuple[int, str]] = field(default_factory=list)
    _floor: int = 0  # the counter of the last one served, before its charge

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
        heapq.heappush(self._idle, (self._counters[name], name))

    def first(self) -> str:
        """Give the name whose turn it is; someone must take part."""
        return self._true_first()[2]

    def charge(self, name: str, amount: int) -> None:
        """Charge *name*, whose turn it is and which takes it."""
        self._floor = self._counters[name]
        self._forget()
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
        mutable = self._counters.copy(), self._joined.copy(), self._order.copy(), self._idle.copy()
        return type(self)(*mutable, self._floor)

    def __contains__(self, name: str) -> bool:
        return name in self._joined

    def __len__(self) -> int:
        return len(self._joined)

    def _set(self, name: str, counter: int) -> None:
        self._counters[name] = counter
        if name in self._joined:
            heapq.heappush(self._order, (counter, self._joined[name], name))
        else:
            heapq.heappush(self._idle, (counter, name))

    def _true_first(self) -> tuple[int, int, str]:
        while not self._is_true(self._order[0]):
            heapq.heappop(self._order)
        return self._order[0]

    def _is_true(self, entry: tuple[int, int, str]) -> bool:
        counter, joined, name = entry
        return self._joined.get(name) == joined and self._counters[name] == counter

    def _forget(self) -> None:
        """Drop the counters of those that do not take part where lifting would overrule them anyway."""
        while self._idle and self._idle[0][0] <= self._floor:
            counter, name = heapq.heappop(self._idle)
            if name not in self._joined and self._counters.get(name) == counter:
                del self._counters[name]
