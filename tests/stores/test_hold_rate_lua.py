"""Rates in Lua are those in Python: the same moves at the same times have the same answers."""

import json
from math import inf
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gateway.stores
from gateway.core.gcra import Rate

pytestmark = pytest.mark.redis

LUA = Path(gateway.stores.__file__).parent / "lua" / "hold_rate.lua"
DRIVER = """
local out = {}
for _, move in ipairs(cjson.decode(ARGV[1])) do
  local now, amount, quantity, by, taken_at = move[1], move[2], move[3], move[4], move[5]
  local rate = load_rate(KEYS[1], now)
  local wait = rate_wait(rate, amount, quantity, now)
  if wait == 0 then rate_take(rate, amount, quantity, now) end
  if by ~= 0 then rate_correct(rate, amount, by, taken_at, now) end
  local used, clears = rate_standing(rate, amount, now)
  save_rate(KEYS[1], rate, amount, now)
  out[#out + 1] = {string.format("%.6f", wait), used, string.format("%.6f", clears)}
end
return cjson.encode(out)
"""
MOVES = st.lists(
    st.tuples(
        st.integers(-3_000, 70_000),  # ms since the last one; clocks are also set back
        st.integers(0, 80),
        st.integers(1, 60),
        st.integers(-60, 60),
        st.integers(0, 70),  # s ago, what is corrected was taken
    ),
    min_size=1,
    max_size=30,
)


@given(MOVES)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lua_does_as_python(redis_url, moves):
    now_s, timed, expected, rate = 1_700_000_000.0, [], [], Rate()
    for after_ms, amount, quantity, by, ago_s in moves:
        now_s = round(now_s + after_ms / 1000, 3)
        timed.append((now_s, amount, quantity, by, now_s - ago_s))
        expected.append(_moved(rate, *timed[-1]))
    with redis.Redis.from_url(redis_url) as client:
        client.delete("rate")
        said = json.loads(client.eval(LUA.read_text() + DRIVER, 1, "rate", json.dumps(timed)))
    told = [(inf if float(wait) < 0 else float(wait), used, float(clears)) for wait, used, clears in said]
    for ours, theirs in zip(expected, told, strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)


def _moved(rate, now_s, amount, quantity, by, taken_s):
    wait_s = rate.wait_s(amount, quantity, now_s)
    if wait_s == 0:
        rate.take(amount, quantity, now_s)
    if by:
        rate.correct(amount, by, taken_s, now_s)
    return wait_s, rate.used(amount, now_s), rate.clears_in_s(amount, now_s)
