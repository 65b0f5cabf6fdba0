"""What goes wrong in a run, a function per kind. They block, for as long as the fault and its repair take."""

import random
import shutil
import time
from collections.abc import Callable

import httpx

from tests.chaos.run.world import Gateway, World

DAY_S = 86_400
STEPS_S = (-40 * DAY_S, -DAY_S, -7_200, -90, 90, 7_200, DAY_S, 40 * DAY_S)
SHIPPED_WITHIN_S = 90


def _kill(world: World, dice: random.Random, away_s: float) -> None:
    del away_s
    gateway = dice.choice(world.gateways)
    _pause(dice, 0.05)
    gateway.strike(dice)
    gateway.start()


def _kill_at_start(world: World, dice: random.Random, away_s: float) -> None:
    """Kill it again while it settles what its first death left."""
    del away_s
    gateway = dice.choice(world.gateways)
    gateway.strike(dice)
    gateway.spawn()
    time.sleep(dice.uniform(0.5, 3.0))
    gateway.strike(dice)
    gateway.start()


def _kill_all(world: World, dice: random.Random, away_s: float) -> None:
    del away_s
    for gateway in world.gateways:
        gateway.strike(dice)
    for gateway in world.gateways:
        gateway.start()


def _kill_without_database(world: World, dice: random.Random, away_s: float) -> None:
    """It starts from the last snapshot, and finds a spool that nobody can ship yet."""
    with world.database_away(dice):
        time.sleep(away_s / 4)
        _kill(world, dice, away_s)
        time.sleep(away_s / 4)


def _flush_redis(world: World, dice: random.Random, away_s: float) -> None:
    del away_s
    _pause(dice, 0.05)
    world.flush_redis()


def _kill_redis(world: World, dice: random.Random, away_s: float) -> None:
    world.redis.kill()
    _pause(dice, away_s / 2)
    world.redis.start()


def _database_away(world: World, dice: random.Random, away_s: float) -> None:
    """The small budget of the second gateway's spool fills up meanwhile."""
    with world.database_away(dice):
        time.sleep(away_s)


def _disk_full(world: World, dice: random.Random, away_s: float) -> None:
    """Half the time its gateway is killed while there is no room: what it answered until then is in the database."""
    gateway, dies = world.gateways[2], dice.random() < 0.5
    with world.disk_full():
        time.sleep(dice.uniform(0.2, 0.5) * away_s)
        if dies:
            gateway.strike(dice)
    if dies:
        gateway.start()


def _ship_twice(world: World, dice: random.Random, away_s: float) -> None:
    """Bring a dead gateway's spool back after it was shipped, as a restored backup would."""
    del away_s
    gateway = dice.choice(world.gateways)
    spool, copy = gateway.spool(), world.folder / f"copy-{dice.getrandbits(32):08x}"
    gateway.strike(dice, copy_to=copy)
    gateway.start()
    _until_shipped(spool)
    again = gateway.spools / f"again-{copy.name}"
    hidden = gateway.spools / f".{again.name}"
    shutil.copytree(copy, hidden)
    hidden.rename(again)
    shutil.rmtree(copy)
    _until_shipped(again)


def _step_clock(world: World, dice: random.Random, away_s: float) -> None:
    gateway = dice.choice(world.gateways)
    gateway.step_clock(dice.choice(STEPS_S))
    time.sleep(away_s / 2)
    if dice.random() < 0.5:
        gateway.strike(dice)
        gateway.start()
    gateway.step_clock(0)


def _fail_engine(world: World, dice: random.Random, away_s: float) -> None:
    """Some requests meet an error before the answer, some a connection that breaks off in the middle of it."""
    del away_s
    failing = {"error_next": 8, "crash_next": 8, "crash_after_tokens": dice.randint(1, 40)}
    httpx.post(f"{dice.choice(world.engine_urls())}/sim/faults", json=failing, timeout=10).raise_for_status()


FAULTS: dict[str, Callable[[World, random.Random, float], None]] = {
    "kill": _kill,
    "kill_at_start": _kill_at_start,
    "kill_all": _kill_all,
    "kill_without_database": _kill_without_database,
    "flush_redis": _flush_redis,
    "kill_redis": _kill_redis,
    "database_away": _database_away,
    "disk_full": _disk_full,
    "ship_twice": _ship_twice,
    "step_clock": _step_clock,
    "fail_engine": _fail_engine,
}


def kills(gateways: list[Gateway]) -> int:
    return sum(gateway.kills for gateway in gateways)


def _pause(dice: random.Random, most_s: float) -> None:
    time.sleep(dice.uniform(0, most_s))


def _until_shipped(spool) -> None:
    deadline = time.monotonic() + SHIPPED_WITHIN_S
    while spool.exists():
        assert time.monotonic() < deadline, f"{spool.name} was not shipped within {SHIPPED_WITHIN_S} s"
        time.sleep(0.05)
