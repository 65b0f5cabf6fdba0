"""Which workers answer now, how loaded they are, and how much more each may be given. Leases that expire."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from gateway.core.engine_load import EngineLoad
from gateway.core.health import WorkerFault
from gateway.core.orders import Order, Standing
from gateway.core.roster import Beat
from gateway.core.routing import PoolViews, WorkerView
from gateway.core.worker_figures import WorkerFigures


class Working(Protocol):
    """
    One request's share of a worker, counted from its making to `end`, or to the end of the block it is used as.

    *predicted_ttft_s* is when its first token is expected, in seconds from then.
    """

    @property
    def predicted_ttft_s(self) -> float: ...

    def prefilled(self, *, is_observed: bool = True) -> None:
        """
        Note that the prompt is computed: its tokens leave the worker's outstanding prefill. Repeating changes nothing.

        *is_observed*: the first token has just come, so this is a TTFT to learn from, not the prediction come true.
        """

    def end(self) -> None:
        """Note that the request is off the worker. Repeating changes nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


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

    def order(self, worker: str, order: Order) -> None:
        """
        Have *worker* do as ordered: no gateway gives it requests unless it is to serve. Idempotent, the last one holds.

        It holds here at once, at the others soon after; with a shared store away, when that is back. It ends a minute
        after the worker is no longer listed, and when the worker is struck off.
        """

    def standing(self, worker: str) -> Standing:
        """Tell how a worker stands; one that is not listed has nothing in flight, and may have an order."""

    def views(self, pool: str) -> PoolViews:
        """
        List the pool's workers as the router weighs them, this gateway's own work on each included. Never blocks.

        They are the roster's own and change with it: read them before you await, and keep them no longer.
        """

    def beats(self) -> Sequence[Beat]:
        """List the last beat of every worker whose lease holds, in the state that its order leaves it in."""

    def working(self, worker: str, work: int, prompt_tokens: int = 0) -> Working:
        """
        Count *work* tokens, one request and *prompt_tokens* of prefill as outstanding on *worker* from now on.

        A store that is shared tells the other gateways soon after, until then they do not know.
        """

    def hear(self, worker: str, load: EngineLoad) -> None:
        """Take what *worker*'s engine said of its load in an answer's head."""

    def tell_sent(self, beginning: int, worker: str) -> None:
        """
        Have the other gateways hear soon that *worker* was sent a prompt with this beginning (core/affinity.py).

        A hint: with the store away, or with very many at once, some reach nobody.
        """

    def listen(self, listener: Callable[[str, int, str], None]) -> None:
        """Have *listener* called with pool, beginning and worker that another gateway told; it must not block."""

    def watch(self, listener: Callable[[str], None]) -> None:
        """Have *listener* called with a pool's name when one of its workers may have got room; it must not block."""

    def suspect(self, worker: str, fault: WorkerFault = WorkerFault.BROKEN) -> None:
        """
        Note that *worker* just failed a request by a *fault* of its own; what a client did is none.

        It ranks last for a few seconds, or until it is trusted; after too many faults it is ejected (core/health.py).
        This gateway's own finding, which is told to no other.
        """

    def trust(self, worker: str) -> None:
        """Note that *worker* just answered a request well, to the end: it is no longer suspect."""

    def returning(self, within_s: float) -> Sequence[WorkerView]:
        """List the workers whose ejection here ends in *within_s* seconds or less. Reads memory only."""

    def keep_ejected(self, worker: str, fault: WorkerFault) -> None:
        """Note that *worker*, which is ejected, does not even answer: for longer than before it gets nothing."""

    def figures(self) -> Sequence[WorkerFigures]:
        """List what is to be shown of every worker whose lease holds. Reads memory only."""

    async def start(self) -> None:
        """Begin sharing with the other gateways, if there is anything to share through."""

    async def aclose(self) -> None:
        """Stop sharing."""
