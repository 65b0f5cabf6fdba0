"""The scaler grows with the line at once, shrinks slowly, never flaps under a constant load, keeps to its bounds."""

from dataclasses import replace
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.scaling import (
    HEADROOM,
    PRIOR_PER_SEQ,
    SETTLE_S,
    ArrivalRate,
    Demand,
    Scaler,
    ScaleRules,
    WorkerRate,
    WorkRate,
)

RULES = ScaleRules(workers_min=0, workers_max=1000)
EACH = 1000.0  # tokens/s of a worker


def demand(**changes):
    return Demand(**{"rate_per_worker": EACH, "in_flight": 1000, **changes})


amounts = st.floats(0, 1e7)
counts = st.integers(0, 2000)
demands = st.builds(
    Demand,
    arrival_rate=st.floats(0, 1e6),
    backlog_tokens=amounts,
    waiting=counts,
    in_flight=counts,
    rate_per_worker=st.none() | st.floats(1, 1e5),
    seqs_each=st.sampled_from([0.0, 1.0, 64.0, 256.0]),
    ready=counts,
    starting=counts,
    ready_in_s=st.lists(st.floats(0, 300), max_size=5),
    start_s=st.none() | st.floats(0, 300),
)


def settled(of, **changes):
    """Give a scaler that has seen enough of a pool to lower it, and the time."""
    scaler = Scaler()
    now_s = 0.0
    while not scaler.decide(now_s, of, RULES).is_settled:
        now_s += 1
    return scaler, now_s


# The formula.


def test_the_formula_is_the_documented_one():
    found = Scaler().decide(0, demand(arrival_rate=5000, backlog_tokens=90_000, waiting=50), RULES)
    assert found.desired == ceil((5000 * 1.2 + 90_000 / 60) / 1000) == 8
    assert "5,000 tokens/s arrive and 90,000 wait; a worker does 1,000 tokens/s" in found.reason


@given(demands, amounts)
def test_more_backlog_never_asks_for_fewer_workers(of, more):
    bigger = replace(of, backlog_tokens=of.backlog_tokens + more)
    assert Scaler().decide(0, bigger, RULES).wanted >= Scaler().decide(0, of, RULES).wanted


@given(st.lists(st.tuples(demands, st.floats(0, 500), st.booleans()), max_size=30), st.integers(0, 5), counts)
def test_a_decision_is_never_outside_its_bounds(course, least, more):
    scaler, now_s = Scaler(), 0.0
    rules = ScaleRules(workers_min=least, workers_max=least + more)
    for of, pause_s, may_lower in course:
        now_s += pause_s
        found = scaler.decide(now_s, of, rules, may_lower=may_lower)
        assert least <= found.desired <= least + more
        assert found.reason


def test_a_pool_without_bounds_is_not_asked_to_be_more_than_it_is():
    found = Scaler().decide(0, demand(arrival_rate=9000, ready=2, starting=1), ScaleRules())
    assert (found.desired, found.wanted) == (3, 11)
    assert "what runs" in found.reason


def test_what_will_wait_when_a_new_worker_is_ready_counts_and_so_do_those_that_start():
    coming = demand(arrival_rate=10_000, waiting=9, start_s=60.0)
    assert Scaler().decide(0, coming, RULES).wanted == ceil(12 + 10)
    under_way = demand(arrival_rate=10_000, waiting=9, start_s=60.0, starting=10, ready_in_s=[0.0] * 10)
    assert Scaler().decide(0, under_way, RULES).wanted == 12


def test_there_are_never_more_workers_than_requests():
    found = Scaler().decide(0, demand(arrival_rate=90_000, waiting=2, in_flight=1), RULES)
    assert found.wanted == 3
    assert "only 3 requests" in found.reason


# Up at once, down late.


def test_the_first_request_starts_a_worker_at_once():
    scaler, now_s = settled(demand(in_flight=0))
    found = scaler.decide(now_s, demand(in_flight=0), RULES)
    assert (found.desired, found.reason) == (0, "no request for 60 s")
    found = scaler.decide(now_s + 0.1, demand(in_flight=0, waiting=1, backlog_tokens=10), RULES)
    assert (found.desired, found.reason) == (1, "a request is there and no worker: the first one starts")


def test_a_pool_goes_to_zero_once_nobody_has_asked_for_so_long():
    scaler, now_s = settled(demand(ready=1))
    idle = demand(in_flight=0, ready=1)
    assert scaler.decide(now_s + 299, idle, RULES).desired == 1
    assert scaler.decide(now_s + 300, idle, RULES).desired == 0
    at_least_one = ScaleRules(workers_min=1, workers_max=4)
    assert scaler.decide(now_s + 301, idle, at_least_one).desired == 1


def test_a_pool_grows_at_once_and_shrinks_only_to_the_peak_of_the_window():
    low, high = demand(arrival_rate=1000, ready=2), demand(arrival_rate=5000, ready=2)
    scaler, now_s = settled(low)
    assert scaler.decide(now_s, low, RULES).desired == 2
    assert scaler.decide(now_s + 1, high, RULES).desired == 6
    assert scaler.decide(now_s + 2, demand(arrival_rate=3000, ready=6), RULES).desired == 6
    found = scaler.decide(now_s + 60, low, RULES)
    assert (found.desired, found.wanted) == (6, 2)
    assert "arrivals asked for 6 within the last 60 s" in found.reason
    assert scaler.decide(now_s + 61.5, low, RULES).desired == 4, "what was asked for 59.5 s ago"
    assert scaler.decide(now_s + 63, low, RULES).desired == 2


def test_workers_that_keep_up_with_a_tenth_to_spare_are_not_made_more():
    found = Scaler().decide(0, demand(arrival_rate=6000, ready=7), RULES)
    assert (found.wanted, found.desired) == (8, 7)
    assert "7 keep up, with a tenth to spare" in found.reason
    assert Scaler().decide(0, demand(arrival_rate=6500, ready=7), RULES).desired == 8
    assert Scaler().decide(0, demand(arrival_rate=6000, backlog_tokens=60_000, waiting=9, ready=7), RULES).desired == 9


def test_workers_that_drain_a_line_stay_until_it_has_been_empty_for_a_while():
    low = demand(arrival_rate=1000, ready=2)
    scaler, now_s = settled(low)
    line = demand(arrival_rate=1000, backlog_tokens=300_000, waiting=300, ready=7)
    assert scaler.decide(now_s, line, RULES).desired == 7
    shorter = demand(arrival_rate=1000, backlog_tokens=30_000, waiting=30, ready=7)
    found = scaler.decide(now_s + 100, shorter, RULES)
    assert (found.desired, found.wanted) == (7, 2)
    assert "drain the line" in found.reason
    assert scaler.decide(now_s + 101, demand(arrival_rate=1000, ready=7), RULES).desired == 7
    assert scaler.decide(now_s + 101 + SETTLE_S, demand(arrival_rate=1000, ready=7), RULES).desired == 2


def test_who_has_just_begun_to_look_lowers_nothing_that_runs():
    """A gateway that was restarted knows of no arrivals: the pool must not collapse for that."""
    scaler = Scaler()
    for now_s in range(60):
        found = scaler.decide(now_s, demand(in_flight=0, ready=5, starting=2), RULES)
        assert (found.desired, found.is_settled) == (7, False)
    assert scaler.decide(60, demand(in_flight=0, ready=7), RULES).desired < 7


def test_nothing_that_runs_is_given_up_while_others_cannot_be_heard():
    scaler, now_s = settled(demand(ready=5))
    assert scaler.decide(now_s, demand(ready=5), RULES, may_lower=False).desired == 5
    assert scaler.decide(now_s, demand(ready=5), RULES).desired < 5


# A pool that follows its decisions.


class Pool:
    """A fluid pool: workers take *start_s*, work is divisible."""

    def __init__(self, start_s, rules=RULES):
        self.scaler, self.rules, self.start_s = Scaler(), rules, start_s
        self.now_s, self.backlog, self.workers, self.changes = 0.0, 0.0, [], []
        self.rate = ArrivalRate()

    def run(self, arrival_rate, seconds):
        for _ in range(seconds):
            self.now_s += 1
            self.rate.add(arrival_rate, self.now_s - 0.5)  # as if spread over the second
            ready = sum(at_s <= self.now_s for at_s in self.workers)
            self.backlog = max(0.0, self.backlog + arrival_rate - ready * EACH)
            self._decide(ready)
        return self

    def _decide(self, ready):
        left = [at_s - self.now_s for at_s in self.workers if at_s > self.now_s]
        found = self.scaler.decide(
            self.now_s,
            Demand(
                arrival_rate=self.rate.per_s(self.now_s),
                backlog_tokens=self.backlog,
                waiting=ceil(self.backlog / 100),
                in_flight=10**6 * bool(self.backlog or self.rate.per_s(self.now_s) > 1),
                rate_per_worker=EACH,
                ready=ready,
                starting=len(left),
                ready_in_s=left,
                start_s=self.start_s,
            ),
            self.rules,
        )
        if found.desired != len(self.workers):
            self.changes.append((self.now_s, found.desired))
        self.workers = sorted(self.workers)[: found.desired]
        self.workers += [self.now_s + self.start_s] * (found.desired - len(self.workers))


@settings(max_examples=20)
@given(st.floats(100, 200_000), st.floats(0, 120))
def test_a_constant_load_converges_and_does_not_flap(arrival_rate, start_s):
    pool = Pool(start_s).run(arrival_rate, 600)
    needed = ceil(arrival_rate * HEADROOM / EACH)
    assert abs(len(pool.workers) - needed) <= 1
    settled_s = pool.changes[-1][0]
    assert settled_s < 500
    pool.run(arrival_rate, 600)
    assert pool.changes[-1][0] == settled_s, "it stands still from then on"
    drops = sum(later < earlier for (_, earlier), (_, later) in zip(pool.changes, pool.changes[1:], strict=False))
    assert drops <= 3, "from the drain of the line that the start made, in few steps"


@settings(max_examples=20)
@given(st.floats(5000, 200_000))
def test_a_step_is_drained_within_the_cold_start_and_a_minute(arrival_rate):
    pool = Pool(60.0).run(arrival_rate / 300, 300)
    pool.run(arrival_rate, 60)
    assert pool.backlog > 0
    for _ in range(60):
        pool.run(arrival_rate, 1)
        if not pool.backlog:
            return
    raise AssertionError(f"{pool.backlog / arrival_rate:.1f} s of arrivals still wait")


# What is learnt.


def test_a_rate_follows_a_step_by_two_thirds_in_its_time_constant():
    rate = WorkRate()
    for tenth in range(100):
        rate.add(100.0, tenth / 10)
    assert 550 < rate.per_s(10) < 680
    assert rate.per_s(20) < 0.4 * rate.per_s(10)


def test_a_step_is_known_within_seconds_and_a_burst_of_an_instant_is_none():
    rate = ArrivalRate()
    for hundredth in range(450):
        rate.add(10.0, hundredth / 100)
    assert 600 < rate.per_s(4.5) <= 1000
    burst = ArrivalRate()
    for _ in range(50):
        burst.add(100.0, 0.9)
    assert all(burst.per_s(at_s) < 200 for at_s in (0.9, 1.5, 2.5, 3.5))


def observed(rate, seconds, served, in_flight, slots=100, ready=1):
    for _ in range(seconds):
        observed.now_s += 1
        rate.observe(observed.now_s, served, ready, in_flight, slots)
    return rate


observed.now_s = 0.0


def test_busy_workers_teach_what_a_worker_does():
    assert observed(WorkerRate(), 19, 3000, 100).per_s is None, "they have just become so many"
    rate = observed(WorkerRate(), 100, 3000, 100)
    assert abs(rate.per_s - 3000) < 100
    observed(rate, 200, 1500, 95)
    assert abs(rate.per_s - 1500 / 0.95) < 100


def test_workers_with_little_to_do_only_ever_raise_it():
    rate = observed(WorkerRate(2000.0), 300, 20, 10)
    assert rate.per_s == 2000
    observed(rate, 300, 2000, 10)
    assert 6000 < rate.per_s < 6800, "a third of 20,000"


def test_a_guess_stands_in_until_a_worker_was_seen_at_work():
    assert Demand(seqs_each=8).per_worker == 8 * PRIOR_PER_SEQ
    assert Demand().per_worker == 128 * PRIOR_PER_SEQ
    assert "a guess" in Scaler().decide(0, Demand(in_flight=9, ready=1), RULES).reason
