"""Turns by virtual counters."""

from gateway.core.turns import Turns


def served(turns: Turns, times: int, amounts: dict[str, int]) -> str:
    names = []
    for _ in range(times):
        name = turns.first()
        turns.charge(name, amounts[name])
        names.append(name)
    return "".join(names)


def taking_part(*names: str) -> Turns:
    turns = Turns()
    for number, name in enumerate(names):
        turns.join(name, number)
    return turns


def test_equal_charges_go_round_in_the_order_of_joining():
    assert served(taking_part("b", "a", "c"), 7, dict.fromkeys("abc", 1)) == "bacbacb"


def test_turns_are_inverse_to_charges():
    assert served(taking_part("l", "s"), 9, {"l": 30, "s": 10}) == "lssslsssl"


def test_who_returns_is_lifted_to_the_smallest_that_waits():
    turns = taking_part("busy")
    served(turns, 5, {"busy": 10})
    turns.join("late", 9)
    assert turns.counter("late") == turns.counter("busy") == 50


def test_who_comes_when_nobody_waits_is_lifted_to_the_last_one_served():
    turns = taking_part("early")
    served(turns, 5, {"early": 10})
    turns.leave("early")
    turns.join("late", 9)
    assert turns.counter("late") == 40


def test_who_leaves_and_returns_keeps_what_it_was_charged():
    turns = taking_part("a", "b")
    turns.charge("a", 100)
    turns.leave("a")
    turns.join("a", 5)
    assert turns.counter("a") == 100
    assert turns.first() == "b"


def test_settling_moves_a_turn():
    turns = taking_part("a", "b")
    turns.charge("a", 10)
    turns.settle("a", -5)
    turns.charge("b", 7)
    assert turns.first() == "a"
    turns.settle("a", 50)
    assert turns.first() == "b"


def test_a_refund_never_makes_a_credit():
    turns = taking_part("a")
    turns.settle("a", -5)
    assert turns.counter("a") == 0


def test_settling_one_that_is_not_known_changes_nothing():
    turns = taking_part("a")
    turns.settle("b", 7)
    assert turns.counter("b") == 0


def test_a_copy_played_forward_leaves_the_original_alone():
    turns = taking_part("a", "b")
    copy = turns.copy()
    served(copy, 10, {"a": 3, "b": 4})
    copy.leave("a")
    assert (len(turns), turns.first(), turns.counter("a")) == (2, "a", 0)


def test_counters_of_names_that_are_gone_are_forgotten():
    turns = Turns()
    for n in range(10_000):
        turns.join(str(n), n)
        turns.charge(str(n), 1)
        turns.charge(str(n), 1)
        turns.leave(str(n))
    assert len(turns._counters) < 200
