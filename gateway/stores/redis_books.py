"""What a gateway keeps books on between two calls to Redis: the credit it has there, and charges to be corrected."""

from collections import deque

from gateway.core.scheduling import Held, Ticket, charge
from gateway.stores.redis_line import Books, Correction

WINDOW_S = 0.15  # starts are counted per window; the busiest of the last ones tells how much credit is wanted
WINDOWS = 20
WANTED_MIN = 8
IDLE_S = 10.0  # without a start for so long no credit is wanted: the next request asks


class Credit:
    """
    Slots that Redis leased to us; *used* are the tickets that began on them: it knows no more than their number.

    `offer` gives all credit that is not used back for the time of a call, so that no slot can be given twice; what the
    call answers is `take`n. Times are of one clock that goes forward.
    """

    def __init__(self) -> None:
        self.used: dict[str, Ticket] = {}
        self.given_back = 0
        self._lease = 0
        self._told = self._lent = 0
        self._ends_s = 0.0
        self._last_start_s: float | None = None
        self._window, self._starts = 0, 0
        self._recent: deque[int] = deque(maxlen=WINDOWS)

    def has_free(self, now_s: float) -> bool:
        """Tell whether a request may start at once. A lease that ran out may have been given to others."""
        return len(self.used) < self._lease and now_s < self._ends_s

    def start(self, ticket: Ticket, now_s: float) -> None:
        """Let *ticket* have one of the slots."""
        self.used[ticket.id] = ticket
        self._last_start_s = now_s
        window = int(now_s / WINDOW_S)
        if window != self._window:
            self._recent.append(self._starts)
            self._window, self._starts = window, 0
        self._starts += 1

    def give_back(self, ticket_id: str) -> bool:
        """Take the slot of a ticket back; tell whether it had one."""
        if self.used.pop(ticket_id, None) is None:
            return False
        self.given_back += 1
        return True

    def offer(self) -> int:
        """Keep of the lease what is used alone; give how much that is."""
        self._lease = self._told = len(self.used)
        return self._lease

    def take(self, lease: int, ends_s: float) -> None:
        """Have *lease* slots until *ends_s*."""
        self._lease, self._ends_s = lease, ends_s
        self._lent = lease - self._told

    @property
    def has_moved(self) -> bool:
        """Whether half of what was lent is used up, or as much again has come back: time to tell."""
        more = len(self.used) - self._told
        return 2 * more > self._lent or -more > self._lent

    def wanted(self, now_s: float) -> int:
        """Tell how many slots are wanted beyond those that are used: two windows' worth at the busiest rate."""
        if self._last_start_s is None:
            self._last_start_s = now_s  # a line is made for a request that is about to come
        if now_s - self._last_start_s > IDLE_S:
            return 0
        return max(WANTED_MIN, 2 * max(self._starts, *self._recent, 0))


class Corrections:
    """
    Charges to correct, summed up by tenant and user, in batches that Redis applies once.

    A batch is told with the same number until a call that carried it is answered.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[int, str, str], int] = {}
        self._told: dict[tuple[int, str, str], int] = {}
        self._batch = 0

    def note(self, held: Held, *, is_over: bool) -> bool:
        """Note what *held* cost more, or at the end less, than was charged; tell whether there is anything to note."""
        ticket, work = held.ticket, held.correction(is_over=is_over)
        if work:
            whom = int(ticket.service_class), ticket.tenant, ticket.user
            self._open[whom] = self._open.get(whom, 0) + charge(work, ticket.weight)
        return bool(work)

    def tell(self) -> tuple[int, list[Correction]]:
        """Give the batch that is due and its number."""
        if self._open and not self._told:
            self._told, self._open = self._open, {}
            self._batch += 1
        return self._batch, [(*whom, amount) for whom, amount in self._told.items()]

    def heard(self) -> None:
        """Take note that the batch was applied."""
        self._told = {}

    def drop(self) -> None:
        """Forget them: what they correct is lost."""
        self._open, self._told = {}, {}


def books(slots: int | None, credit: Credit, corrections: Corrections, now_s: float) -> Books:
    """State all of it for a call; *slots* is our word on the pool's."""
    batch, due = corrections.tell()
    return Books(
        slots=slots,
        used=credit.offer(),
        given_back=credit.given_back,
        wanted=credit.wanted(now_s),
        batch=batch,
        corrections=due,
    )
