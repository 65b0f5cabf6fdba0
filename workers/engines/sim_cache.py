"""The simulated KV cache: blocks of tokens, shared by prefix, evicted least recently used first. No clock, no I/O."""

from collections.abc import Iterable, Sequence

BLOCK_TOKENS = 128  # as on vLLM's CPU backend


class BlockCache:
    """
    Counts blocks; there is no content. A key stands for all tokens up to the end of its block.

    A block is private while it is being filled, pinned while a running sequence uses it, idle when none does. Idle
    blocks are hits for whoever comes with the same prefix, until their room is needed.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._private = 0
        self._pins: dict[int, int] = {}
        self._idle: dict[int, None] = {}  # the least recently used is first

    def __repr__(self) -> str:
        return f"<BlockCache [{self.used} used, {len(self._idle)} idle, {self.capacity} in all]>"

    @property
    def used(self) -> int:
        """Blocks that running sequences hold."""
        return self._private + len(self._pins)

    @property
    def usage(self) -> float:
        """The used part of the cache, 0 to 1; idle blocks do not count, as in vLLM."""
        return self.used / self.capacity

    def pin(self, keys: Iterable[int]) -> int:
        """Pin the leading blocks among *keys* that are here; give how many."""
        count = 0
        for key in keys:
            if key not in self._pins and key not in self._idle:
                break
            self._idle.pop(key, None)
            self._pins[key] = self._pins.get(key, 0) + 1
            count += 1
        return count

    def take(self, count: int) -> bool:
        """Take *count* private blocks, evicting idle ones for them; False and no change if even that is too little."""
        if self.used + count > self.capacity:
            return False
        self._private += count
        while self.used + len(self._idle) > self.capacity:
            del self._idle[next(iter(self._idle))]
        return True

    def publish(self, key: int) -> None:
        """Turn a private block, now full, into a pinned one that others can hit."""
        self._private -= 1
        self._idle.pop(key, None)
        self._pins[key] = self._pins.get(key, 0) + 1

    def free(self, keys: Sequence[int], private: int) -> None:
        """Give back a sequence's blocks; the tail of a prefix goes first when room is needed."""
        self._private -= private
        for key in reversed(keys):
            self._pins[key] -= 1
            if not self._pins[key]:
                del self._pins[key]
                self._idle[key] = None
