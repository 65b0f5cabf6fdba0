"""When a worker is passed over, for how long, how it comes back; and how many never are."""

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.health import JITTER, HealthRules, HealthState, PoolHealth, WorkerFault
from gateway.core.slow_start import FIRST_SEQS_MIN

RULES = HealthRules()
TRUSTED, SUSPECT, EJECTED, HALF_OPEN = HealthState


class Pool:
    """A pool's health with a clock to turn by hand; all workers are ready."""

    def __init__(self, size=2, **rules):
        self.now_s = 1000.0
        self.health = PoolHealth(HealthRules(**rules), dice=lambda: 0.0)
        self.workers = [self.health.join(f"w{n}") for n in range(size)]
        for n in range(size):
            self.ready(n)

    def ready(self, n, *, is_ready=True):
        return self.health.note_ready(f"w{n}", self.now_s, is_ready=is_ready)

    def fault(self, n=0, count=1, fault=WorkerFault.STATUS):
        for _ in range(count):
            self.health.note_fault(f"w{n}", fault, self.now_s)
        return self.workers[n]

    def answer(self, n=0, count=1):
        for _ in range(count):
            self.health.note_answer(f"w{n}", self.now_s)
        return self.workers[n]

    def after(self, seconds):
        self.now_s += seconds
        return self.health.look(self.now_s)

    def seqs(self, n=0, credit=64, in_flight=0):
        return self.workers[n].seqs(credit, in_flight, self.now_s)

    @property
    def states(self):
        return [worker.state for worker in self.workers]


def half_open(**rules):
    pool = Pool(**rules)
    pool.fault(count=RULES.faults_in_row)
    pool.after(RULES.ejection_s)
    assert pool.states == [HALF_OPEN, TRUSTED]
    return pool


def test_one_fault_makes_a_suspect_for_a_while_or_until_it_answers_well():
    pool = Pool()
    assert pool.fault().state is SUSPECT
    assert pool.after(RULES.suspect_s - 0.1) == []
    assert pool.after(0.1) == ["w0"]
    assert pool.states == [TRUSTED, TRUSTED]
    pool.fault()
    assert pool.answer().state is TRUSTED


def test_faults_in_a_row_eject_and_say_so():
    pool = Pool()
    assert pool.fault(count=4).state is SUSPECT
    worker = pool.fault(fault=WorkerFault.UNREACHABLE)
    assert (worker.state, worker.until_s, worker.ejections) == (EJECTED, pool.now_s + 10, 1)
    assert worker.reason == "5 faults in a row, the last: it cannot be reached"


def test_an_answer_between_them_breaks_a_row():
    pool = Pool()
    for _ in range(3):
        pool.fault(count=4)
        pool.answer()
    assert pool.states == [TRUSTED, TRUSTED]


def test_a_worker_that_fails_every_other_request_is_ejected_by_its_share():
    pool = Pool()
    for _ in range(9):
        pool.answer()
        pool.fault()
    assert pool.workers[0].state is SUSPECT, "18 answers are too few to judge by"
    pool.answer()
    assert pool.fault().state is EJECTED
    assert pool.workers[0].reason.startswith("10 faults among 20 answers within 30 s")


def test_faults_of_long_ago_count_for_no_share():
    pool = Pool()
    for _ in range(40):
        pool.answer()
        pool.fault()
        pool.answer()
        pool.after(4)
    assert pool.states == [TRUSTED, TRUSTED]


def test_an_ejected_worker_is_passed_over_and_has_its_credit_for_those_whom_no_other_can_serve():
    pool = Pool()
    pool.fault(count=5)
    assert (pool.workers[0].is_passed_over, pool.seqs()) == (True, 64)


def test_an_ejection_ends_in_one_request_at_a_time():
    pool = half_open()
    worker = pool.workers[0]
    assert not worker.is_passed_over
    assert [pool.seqs(in_flight=n) for n in (0, 7)] == [1, 8], "what began before the ejection does not block the trial"
    trial = worker.begin_request()
    assert pool.seqs(in_flight=1) == 1
    worker.end_request(trial)
    assert pool.seqs() == 1, "a trial that its client left, or asked wrongly, proved nothing: the next one may begin"


def test_a_request_of_an_earlier_trial_does_not_end_the_present_one():
    pool = half_open()
    worker = pool.workers[0]
    early = worker.begin_request()
    pool.fault()
    pool.after(RULES.ejection_s * 2)
    late = worker.begin_request()
    worker.end_request(early)
    assert pool.seqs(in_flight=1) == 1
    worker.end_request(late)
    assert pool.seqs() == 1


def test_a_trial_that_fails_doubles_the_time():
    pool, times = half_open(), []
    for _ in range(7):
        times.append(pool.fault().until_s - pool.now_s)
        pool.after(times[-1])
        assert pool.workers[0].state is HALF_OPEN
    assert times == [20, 40, 80, 160, 300, 300, 300]


def test_a_first_token_ends_a_trial_and_credit_comes_back_by_and_by():
    pool = half_open()
    pool.health.note_first_token("w0", pool.now_s, 0.5)
    assert (pool.states, pool.seqs()) == ([TRUSTED, TRUSTED], 7)
    pool.after(RULES.slow_start_s)
    assert pool.seqs() == 64
    assert (pool.workers[0].first_tokens, pool.workers[0].ttft_s) == (1, 0.5)


def test_a_worker_that_came_back_by_a_first_token_alone_is_ejected_again_by_its_next_fault():
    pool = half_open()
    pool.health.note_first_token("w0", pool.now_s, 0.5)
    assert pool.fault().state is EJECTED
    pool = half_open()
    pool.answer()
    assert pool.fault().state is SUSPECT


def test_time_of_good_service_makes_the_next_ejection_shorter():
    pool = half_open()
    pool.answer()
    assert pool.fault(count=5).until_s - pool.now_s == 20
    pool.after(20)
    pool.answer()
    pool.after(2 * RULES.window_s)
    assert pool.fault(count=5).until_s - pool.now_s == 10


def test_an_ejected_worker_that_does_not_even_answer_stays_out_longer_and_longer():
    pool, times = Pool(), []
    pool.fault(count=5)
    for _ in range(3):
        assert pool.health.returning(pool.now_s, 9.0) == []
        pool.after(pool.workers[0].until_s - pool.now_s - 1)
        assert pool.health.returning(pool.now_s, 9.0) == ["w0"]
        assert pool.health.keep_ejected("w0", WorkerFault.UNREACHABLE, pool.now_s) == ["w0"]
        times.append(pool.workers[0].until_s - pool.now_s)
    assert times == [20, 40, 80]
    assert pool.workers[0].reason == "no good answer at /health, the last fault: it cannot be reached"
    assert pool.health.keep_ejected("w1", WorkerFault.UNREACHABLE, pool.now_s) == [], "it is not ejected"


def test_one_that_failed_its_trial_while_it_drained_is_ejected_as_any_other_later():
    pool = half_open()
    pool.ready(0, is_ready=False)
    assert pool.fault().state is SUSPECT
    pool.ready(0)
    assert pool.fault(count=5).state is EJECTED


def test_jitter_keeps_gateways_apart():
    times = []
    for draw in (0.0, 0.5, 1.0):
        health = PoolHealth(RULES, dice=lambda draw=draw: draw)
        worker, _ = (health.join(name) for name in ("w0", "w1"))
        for name in ("w0", "w1"):
            health.note_ready(name, 0.0, is_ready=True)
        for _ in range(5):
            health.note_fault("w0", WorkerFault.STATUS, 0.0)
        times.append(worker.until_s)
    assert times == [10, 10 * (1 + JITTER / 2), 10 * (1 + JITTER)]


def test_another_process_in_its_place_is_tried_at_once():
    pool = Pool()
    pool.fault(count=5)
    pool.health.note_new_engine("w0")
    assert (pool.states, pool.seqs()) == ([HALF_OPEN, TRUSTED], 1)
    assert pool.fault().until_s - pool.now_s == 20, "one that crashes again and again waits longer and longer"


def test_a_lone_worker_is_never_ejected():
    pool = Pool(size=1)
    assert pool.fault(count=50).state is SUSPECT
    assert "the pool can spare 0 of its 1" in pool.workers[0].reason
    assert pool.seqs() == 64


@pytest.mark.parametrize(("size", "share", "most"), [(2, 0.5, 1), (3, 0.5, 1), (4, 0.5, 2), (10, 0.3, 3), (5, 0.0, 0)])
def test_of_a_pool_that_fails_as_a_whole_a_share_is_ejected_and_the_others_serve(size, share, most):
    pool = Pool(size=size, pool_share_max=share)
    for n in range(size):
        pool.fault(n, count=10)
    assert pool.states.count(EJECTED) == most
    assert sum(worker.is_passed_over for worker in pool.workers) == max(1, most)


def test_when_the_others_go_away_those_with_the_least_time_left_are_let_back():
    pool = Pool(size=4)
    pool.fault(0, count=5)
    pool.after(3)
    pool.fault(1, count=5)
    assert pool.states == [EJECTED, EJECTED, TRUSTED, TRUSTED]
    assert pool.ready(2, is_ready=False) == ["w0"]
    assert pool.health.leave("w3", pool.now_s) == []
    assert pool.states[:2] == [TRUSTED, EJECTED]
    assert pool.seqs(0) == 7, "it comes back by and by"
    assert pool.health.leave("w2", pool.now_s) == []
    assert pool.health.leave("w0", pool.now_s) == ["w1"]


def test_a_fault_of_a_worker_nobody_knows_is_nothing():
    assert Pool().health.note_fault("w9", WorkerFault.STATUS, 0.0) == []


def test_a_pool_says_how_it_is():
    pool = half_open()
    assert repr(pool.health) == "<PoolHealth [1 sidelined of 2 ready]>"
    assert repr(pool.workers[0]).startswith("<WorkerHealth [half_open: 5 faults in a row")


class PoolMachine(RuleBasedStateMachine):
    """Whatever happens to a pool of workers, one of which only ever meets bad requests and impatient clients."""

    @initialize(share=st.sampled_from([0.0, 0.3, 0.5, 0.9]), size=st.integers(1, 7), draw=st.floats(0, 1))
    def begin(self, share, size, draw):
        self.rules = HealthRules(pool_share_max=share, faults_in_row=3, answers_min=6)
        self.pool, self.now_s, self.ready = PoolHealth(self.rules, dice=lambda: draw), 0.0, set()
        self.workers, self.trials = {}, []
        for n in range(size):
            self.come(n)

    def come(self, n):
        self.workers[f"w{n}"] = self.pool.join(f"w{n}")
        self.set_ready(f"w{n}", True)

    def set_ready(self, worker, is_ready):
        self.pool.note_ready(worker, self.now_s, is_ready=is_ready)
        (self.ready.add if is_ready else self.ready.discard)(worker)

    @rule(n=st.integers(0, 6), is_ready=st.booleans())
    def change(self, n, is_ready):
        if f"w{n}" in self.workers:
            self.set_ready(f"w{n}", is_ready)

    @rule(n=st.integers(0, 6), comes=st.booleans())
    def come_or_go(self, n, comes):
        if comes:
            self.come(n)
        elif f"w{n}" in self.workers and n:
            del self.workers[f"w{n}"]
            self.pool.leave(f"w{n}", self.now_s)
            self.ready.discard(f"w{n}")

    @rule(n=st.integers(1, 6), fault=st.sampled_from(list(WorkerFault)), count=st.integers(1, 4))
    def fail(self, n, fault, count):
        for _ in range(count):
            self.pool.note_fault(f"w{n}", fault, self.now_s)

    @rule(n=st.integers(0, 6), is_whole=st.booleans())
    def answer(self, n, is_whole):
        self.pool.note_first_token(f"w{n}", self.now_s, 0.1)
        if is_whole:
            self.pool.note_answer(f"w{n}", self.now_s)

    @rule(n=st.integers(0, 6))
    def begin_request(self, n):
        worker = self.workers.get(f"w{n}")
        if worker and worker.seqs(64, 0, self.now_s):
            self.trials.append((worker, worker.begin_request()))

    @precondition(lambda self: self.trials)
    @rule(place=st.integers(0, 100))
    def client_leaves_or_asked_wrongly(self, place):
        worker, trial = self.trials.pop(place % len(self.trials))
        worker.end_request(trial)

    @rule(n=st.integers(1, 6), fault=st.sampled_from(list(WorkerFault)))
    def knock(self, n, fault):
        assert self.pool.keep_ejected(f"w{n}", fault, self.now_s) == [
            name for name in self.pool.returning(self.now_s, inf) if name == f"w{n}"
        ]

    @rule(n=st.integers(0, 6))
    def restart(self, n):
        if f"w{n}" in self.workers:
            self.pool.note_new_engine(f"w{n}")

    @rule(seconds=st.sampled_from([0.1, 3.0, 10.0, 60.0, 400.0]))
    def wait(self, seconds):
        self.now_s += seconds
        self.pool.look(self.now_s)

    @invariant()
    def no_more_than_the_share_is_sidelined(self):
        sidelined = [name for name in self.ready if self.workers[name].is_sidelined]
        assert sorted(sidelined) == sorted(self.pool.sidelined())
        assert len(sidelined) <= int(self.rules.pool_share_max * len(self.ready))
        passed_over = sum(self.workers[name].is_passed_over for name in self.ready)
        assert passed_over <= max(1, int(self.rules.pool_share_max * len(self.ready)))

    @invariant()
    def who_did_nothing_wrong_is_trusted(self):
        if "w0" in self.workers:
            assert self.workers["w0"].state is TRUSTED
            assert self.workers["w0"].seqs(64, 0, self.now_s) == 64

    @invariant()
    def who_is_ejected_comes_to_a_trial_in_time(self):
        for worker in self.workers.values():
            if worker.state is EJECTED:
                assert self.now_s < worker.until_s <= self.now_s + self.rules.ejection_s_max * (1 + JITTER)
            else:
                assert worker.seqs(64, 0, self.now_s) >= (worker.state is not HALF_OPEN) * FIRST_SEQS_MIN
            assert (worker.until_s == inf) == (worker.state in {TRUSTED, HALF_OPEN})

    def teardown(self):
        """Every one that is ejected gets its trial in the end, and a good answer brings it back."""
        if not hasattr(self, "pool"):
            return
        self.now_s += self.rules.ejection_s_max * (1 + JITTER)
        self.pool.look(self.now_s)
        assert not any(worker.state is EJECTED for worker in self.workers.values())
        for name, worker in self.workers.items():
            self.pool.note_answer(name, self.now_s)
            assert worker.state is TRUSTED


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestPool = PoolMachine.TestCase
