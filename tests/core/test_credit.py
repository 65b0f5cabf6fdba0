"""What a worker may be given: where it starts, what cuts it, when it grows, and between which bounds."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.credit import CUT, FLOOR_SEQS, CreditMode, WorkerCredit
from gateway.core.engine_load import EngineLoad, read_engine_load
from tests.conformance.rosters import beat


@dataclass
class Engine:
    """A worker with its credit, beating once a second."""

    max_seqs: int = 64
    mode: CreditMode = CreditMode.ADAPTIVE
    now_s: float = 0.0
    preemptions: int = 0
    completion_tokens: int = 0
    credit: WorkerCredit = field(init=False)

    def __post_init__(self):
        self.credit = WorkerCredit(self.max_seqs, 2048, self.mode)
        self.beat()

    def beat(self, *, waiting=0, preempted=0, used=0, after_s=1.0, itl_s=0.0, kv=0.0):
        self.now_s += after_s
        self.preemptions += preempted
        self.completion_tokens += round(used * after_s / itl_s) if itl_s else 0
        self.credit.use(used)
        said = {"preemptions_total": self.preemptions, "completion_tokens_total": self.completion_tokens}
        self.credit.beat(
            self.now_s, beat(max_seqs=self.max_seqs, waiting=waiting, running=used, kv_cache_usage=kv, **said)
        )
        return self.credit.seqs

    def beat_busily(self, beats=1, **said):
        """Beat while all credit is used up."""
        for _ in range(beats):
            self.beat(used=self.credit.seqs, **said)
        return self.credit.seqs


def test_credit_starts_at_the_engines_own_limits():
    credit = WorkerCredit(64, 2048)
    assert (credit.seqs, credit.prefill_tokens) == (64, 4096)
    assert WorkerCredit(0).seqs == 0, "an engine that has not said what it takes gets nothing"
    assert WorkerCredit(64, 0).prefill_tokens == WorkerCredit(64, 2048).prefill_tokens


@pytest.mark.parametrize("said", [{"waiting": 3}, {"preempted": 1}])
def test_an_engine_that_queues_or_preempts_loses_three_tenths(said):
    engine = Engine()
    assert engine.beat_busily(**said) == int(CUT * 64)
    assert engine.credit.prefill_tokens == int(4096 * CUT)


def test_two_that_wait_are_no_queue():
    assert Engine().beat_busily(waiting=2) == 64


def test_preemptions_of_before_the_first_beat_are_nobodys_fault():
    credit = WorkerCredit(64, 2048)
    credit.beat(0.0, beat(preemptions_total=100))
    assert credit.seqs == 64


def test_one_incident_is_one_cut():
    engine = Engine()
    engine.beat_busily(waiting=9)
    for _ in range(9):
        engine.credit.hear(engine.now_s + 0.5, EngineLoad(9, 0.5))
        engine.beat(waiting=9, preempted=1, after_s=0.05)
    assert engine.credit.seqs == int(CUT * 64)
    assert engine.beat(waiting=9) == int(CUT * CUT * 64)


def test_with_long_prompts_the_reaction_time_is_the_time_to_the_first_token():
    engine = Engine()
    engine.credit.note_first_token(5.0, 4096)
    engine.beat(waiting=9)
    assert engine.beat(waiting=9, after_s=4.9) == int(CUT * 64)
    assert engine.beat(waiting=9, after_s=0.2) == int(CUT * CUT * 64)


def test_the_head_of_an_answer_cuts_before_the_next_beat():
    engine = Engine()
    assert not engine.credit.hear(engine.now_s, EngineLoad(2, 0.5))
    assert engine.credit.hear(engine.now_s, EngineLoad(3, 0.5))
    assert engine.credit.seqs == int(CUT * 64)


def test_credit_grows_by_the_same_step_only_while_it_is_used_up():
    engine = Engine()
    engine.beat_busily(waiting=9)
    before = engine.credit.seqs
    assert engine.beat(used=before - 1) == before
    steps = [engine.beat_busily() for _ in range(4)]
    assert [later - earlier for earlier, later in zip([before, *steps], steps, strict=False)] == [2, 2, 2, 2]


def test_near_the_last_incident_growth_is_a_slow_probe():
    engine = Engine()
    engine.beat_busily(waiting=9)
    while engine.credit.seqs < 0.9 * 64:
        engine.beat_busily()
    knee = engine.credit.seqs
    assert engine.beat_busily(4) <= knee + 2
    assert engine.beat_busily(20) > knee + 2


def test_nothing_grows_into_a_full_cache():
    engine = Engine()
    low = engine.beat_busily(waiting=9)
    assert engine.beat_busily(10, kv=0.96) == low
    assert engine.beat_busily(10, kv=0.5) > low


def test_a_beat_that_arrives_in_several_ways_is_one_beat():
    engine = Engine()
    engine.beat_busily(waiting=9)
    low = engine.credit.seqs
    for _ in range(5):
        engine.beat_busily(after_s=0.1)
    assert engine.credit.seqs == low + 2


def test_first_tokens_that_come_far_later_than_predicted_cut_the_credit_a_little():
    engine = Engine()
    for _ in range(100):
        engine.credit.note_first_token(0.1, 2048)
    assert engine.credit.predicted_ttft_s(3 * 2048) == pytest.approx(0.2)
    assert engine.beat_busily() == 64
    for _ in range(10):
        engine.credit.note_first_token(0.5, 2048)
    assert int(CUT * 64) < engine.beat_busily() < 64


def test_latency_alone_takes_no_more_than_a_quarter():
    engine = Engine()
    engine.beat_busily(30, itl_s=0.02)
    seen = {engine.beat_busily(itl_s=0.02 * 2**n) for n in range(10)}
    assert min(seen) == 48
    assert engine.beat_busily(waiting=9) == int(CUT * 48), "an engine that queues loses more"


def test_slow_first_tokens_of_a_worker_with_little_to_do_cut_nothing():
    engine = Engine()
    for ttft_s in (*[0.1] * 100, *[0.5] * 10):
        engine.credit.note_first_token(ttft_s, 1000)
    assert engine.beat(used=10) == 64


def test_more_tokens_ahead_explain_a_longer_time_to_the_first():
    engine = Engine()
    for tokens in range(500, 20_000, 100):
        engine.credit.note_first_token(tokens / 10_000, tokens)
    assert engine.beat_busily() == 64


def test_tokens_that_come_far_more_slowly_than_usual_cut_the_credit_a_little():
    engine = Engine()
    assert engine.beat_busily(60, itl_s=0.02) == 64
    assert int(CUT * 64) < engine.beat_busily(3, itl_s=0.2) < 64


@pytest.mark.parametrize(("mode", "seqs"), [(CreditMode.FIXED, 64), (CreditMode.OFF, 1 << 30)])
def test_credit_that_does_not_adapt_stays_what_it_is(mode, seqs):
    engine = Engine(mode=mode)
    assert engine.credit.seqs == seqs
    assert engine.beat_busily(5, waiting=99, preempted=9) == seqs
    assert WorkerCredit(0, mode=mode).seqs == 0


said_of_a_second = st.fixed_dictionaries(
    {
        "waiting": st.integers(0, 500),
        "preempted": st.integers(0, 3),
        "used": st.integers(0, 2000),
        "after_s": st.floats(0, 30),
        "itl_s": st.floats(0.001, 2),
        "kv": st.floats(0, 1),
    }
)


@settings(max_examples=200)
@given(max_seqs=st.integers(1, 1024), seconds=st.lists(said_of_a_second, max_size=60), ttft_s=st.floats(0.001, 60))
def test_credit_stays_between_its_floor_and_the_engines_limit(max_seqs, seconds, ttft_s):
    engine = Engine(max_seqs=max_seqs)
    for said in seconds:
        engine.credit.note_first_token(ttft_s, said["used"])
        engine.beat(**said)
        assert min(FLOOR_SEQS, max_seqs) <= engine.credit.seqs <= max_seqs
        assert 2048 <= engine.credit.prefill_tokens <= 4096


@settings(max_examples=100)
@given(max_seqs=st.integers(1, 1024), seconds=st.lists(said_of_a_second, max_size=30))
def test_after_any_trouble_a_busy_engine_gets_all_of_its_credit_back(max_seqs, seconds):
    engine = Engine(max_seqs=max_seqs)
    for said in seconds:
        engine.beat(**said)
    assert engine.beat_busily(1500, itl_s=0.02) == max_seqs


def test_the_engines_word_is_read_as_vllm_writes_it():
    value = b'JSON {"named_metrics": {"kv_cache_usage_perc": 0.25, "num_requests_waiting": 3.0}}'
    assert read_engine_load(value) == EngineLoad(waiting=3.0, kv_cache_usage=0.25)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"TEXT named_metrics.num_requests_waiting=3.0",
        b"JSON {",
        b"JSON []",
        b'JSON {"named_metrics": {}}',
        b'JSON {"named_metrics": {"num_requests_waiting": "many", "kv_cache_usage_perc": 0}}',
        b'JSON {"named_metrics": {"num_requests_waiting": null, "kv_cache_usage_perc": 0}}',
        b'JSON {"named_metrics": {"num_requests_waiting": NaN, "kv_cache_usage_perc": 0}}',
        b'JSON {"named_metrics": {"num_requests_waiting": 1, "kv_cache_usage_perc": 7}}',
        b"JSON " + b"[" * 100_000,
    ],
)
def test_a_word_that_cannot_be_read_is_no_word(value):
    assert read_engine_load(value) is None
