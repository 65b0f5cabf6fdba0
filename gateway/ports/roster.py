"""Which workers answer now, and how loaded they are. Leases that expire."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from gateway.core.roster import Beat
from gateway.core.routing import WorkerView


class Roster(Protocol):
    """
    Workers known to this gateway, through their own beats or through another gateway's.

    A worker is listed until `lease_s` after its last beat. With a shared store away, each gateway goes on with what it
    last saw and with the beats that reach it; nothing here ever waits for the store on behalf of a request.
    """

    async def beat(self, beat: Beat) -> None:
        """Take a worker's beat: renews its lease, replaces what was known of it. Idempotent. Never raises."""

    async def forget(self, worker: str) -> None:
        """Strike a worker off, everywhere; unknown workers are fine."""

    def views(self, pool: str) -> Sequence[WorkerView]:
        """List the pool's workers as the router weighs them, this gateway's own work on each included. Never blocks."""

    def beats(self) -> Sequence[Beat]:
        """List the last beat of every worker whose lease holds."""

    def working(self, worker: str, work: int) -> AbstractContextManager[None]:
        """Count *work* tokens and one request as outstanding on *worker* while the block runs."""

    def suspect(self, worker: str) -> None:
        """Note that *worker* just failed a request: it ranks last for `suspect_s`, or until it is trusted."""

    def trust(self, worker: str) -> None:
        """Note that *worker* just answered a request well: it is no longer suspect."""

    async def start(self) -> None:
        """Begin sharing with the other gateways, if there is anything to share through."""

    async def aclose(self) -> None:
        """Stop sharing."""
