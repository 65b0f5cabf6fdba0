"""An engine's prefix cache in virtual time: blocks of prompts, the least recently used of them dropped first."""

from collections import OrderedDict
from collections.abc import Sequence

from gateway.core.affinity import Chain, extend

BLOCK_TOKENS = 512  # of a block in Mooncake's traces
CONVERSATION_BLOCKS = 2  # the first may be a system prompt that all share; the next one is a conversation's own


class BlockCache:
    """The blocks that one engine holds; the id of a block stands for all of the prompt up to its end."""

    def __init__(self, tokens: int) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._blocks_max = tokens // BLOCK_TOKENS

    def held_tokens(self, blocks: Sequence[int]) -> int:
        """Count the tokens of a prompt, from its beginning on, that are here."""
        held = 0
        for block in blocks:
            if block not in self._blocks:
                break
            held += BLOCK_TOKENS
        return held

    def put(self, blocks: Sequence[int]) -> None:
        """Take in the blocks of a prompt that has been computed."""
        for block in blocks:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._blocks_max:
            self._blocks.popitem(last=False)


def chain_of(blocks: Sequence[int], last_turn: int | None = None) -> Chain:
    """Give the beginnings of a prompt of *blocks*; its first ones tell whose conversation it is."""
    key = extend(0, repr(tuple(blocks[:CONVERSATION_BLOCKS])).encode())
    return Chain(key, tuple(blocks), tuple(BLOCK_TOKENS * count for count in range(1, len(blocks) + 1)), last_turn)
