"""A request that comes again is known by its digest, for some minutes, in bounded memory."""

from gateway.core.returns import KEPT_MS, Returns, mark


def test_it_has_its_first_arrival_once():
    returns = Returns()
    returns.note(mark("k", b"body"), 1000)
    assert returns.take(mark("k", b"another"), 2000) is None
    assert returns.take(mark("other", b"body"), 2000) is None
    assert returns.take(mark("k", b"body"), 2000) == 1000
    assert returns.take(mark("k", b"body"), 2000) is None


def test_an_idempotency_key_stands_for_the_body():
    assert mark("k", b"one", b"key") == mark("k", b"two", b"key")
    assert mark("k", b"one", b"key") != mark("k", b"one", b"other")
    assert mark("k", b"one", b"key") != mark("l", b"one", b"key")


def test_a_key_and_a_body_cannot_be_mistaken_for_others():
    assert mark("ab", b"c") != mark("a", b"bc")


def test_after_some_minutes_it_begins_anew():
    returns = Returns()
    returns.note(mark("k", b"body"), 1000)
    assert returns.take(mark("k", b"body"), 1001 + KEPT_MS) is None


def test_of_too_many_the_oldest_are_forgotten():
    returns = Returns(kept_max=2)
    for name in (b"a", b"b", b"a", b"c"):
        returns.note(name, 1)
    assert repr(returns) == "<Returns [2 went away]>"
    assert [returns.take(name, 2) for name in (b"a", b"b", b"c")] == [1, None, 1]
