"""One drill from its first part to its last figure: bring up or find the gateways, let the crowd in, watch, sum up."""

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway.commands.drill.capacity import Fleet
from gateway.commands.drill.crowd import Crowd, Door
from gateway.commands.drill.figures import Observed
from gateway.commands.drill.scenario import Scenario, draw
from gateway.commands.drill.screen import Screen
from gateway.commands.drill.stage import staged
from gateway.commands.drill.target import Address, opened
from gateway.commands.drill.watch import GatewayMeter, RedisMeter

LEAD_S = 0.5  # between the last preparation and the first client


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnStage:
    """An installation of the drill's own: its size, and when in the burst the added workers are ready."""

    gateways: int
    fleet: Fleet
    rate: float
    scale_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of a drill: who comes, where, how long one may wait by class, and when it ends after the last arrival."""

    scenario: Scenario
    where: OwnStage | Address
    wait_limits_s: Mapping[str, float]
    end_s: float


async def run(plan: Plan, screen: Screen) -> Observed | None:
    """
    Run *plan*; None if SIGINT or SIGTERM ended it, and then all that was started has ended too.

    A second signal hurries the end. Raises InvalidInput for a target that is none, StartFailed.
    """
    hurry = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None, "a coroutine that runs is a task's"
    stop = _Stop(task, hurry, screen)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        async with AsyncExitStack() as stack:
            if isinstance(plan.where, OwnStage):
                return await _run_on_own_stage(plan, plan.where, screen, hurry, stack)
            door = await stack.enter_async_context(opened(plan.where, plan.scenario.tenants, screen.say))
            return await _burst(plan, _crowd(plan, door), time.monotonic() + LEAD_S, screen, _Meters())
    except asyncio.CancelledError:
        if not stop.is_asked:
            raise
        return None


@dataclass(frozen=True, slots=True)
class _Meters:
    """What can be watched from outside; on another's installation nothing."""

    gateways: GatewayMeter | None = None
    redis: RedisMeter | None = None

    @asynccontextmanager
    async def watching(self, began_s: float) -> AsyncIterator[None]:
        """Watch while the block runs; what counts begins at *began_s*."""
        work: list[Coroutine[None, None, None]] = [self._begin(began_s)]
        work += [meter.run() for meter in (self.gateways, self.redis) if meter]
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _begin(self, began_s: float) -> None:
        await asyncio.sleep(began_s - time.monotonic())
        for meter in (self.gateways, self.redis):
            if meter:
                meter.begin()


async def _run_on_own_stage(
    plan: Plan, own: OwnStage, screen: Screen, hurry: asyncio.Event, stack: AsyncExitStack
) -> Observed:
    scenario = plan.scenario
    builder = await stack.enter_async_context(
        staged(gateways=own.gateways, tenants=scenario.tenants, fleet=own.fleet, say=screen.say, hurry=hurry)
    )
    with screen.busy(f"{own.gateways} gateway(s) and {own.fleet.workers} simulated workers"):
        stage = await builder.build()
    began_s = time.monotonic() + LEAD_S + scenario.calm_s
    if own.fleet.added:
        await builder.add_workers(began_s + own.scale_at_s)
    meters = _Meters(GatewayMeter(stage.gateway_pids), RedisMeter(*stage.redis) if stage.redis else None)
    return await _burst(plan, _crowd(plan, stage.door), began_s, screen, meters)


def _crowd(plan: Plan, door: Door) -> Crowd:
    return Crowd(draw(plan.scenario), door)


async def _burst(plan: Plan, crowd: Crowd, began_s: float, screen: Screen, meters: _Meters) -> Observed:
    own = plan.where if isinstance(plan.where, OwnStage) else None
    cpu_before_s = time.process_time()
    async with meters.watching(began_s), screen.following(crowd, plan.scenario):
        gc.disable()  # a collection stops thousands of clients for 0.4 s, which would be measured; they are few enough
        await crowd.run(began_s, plan.end_s)
        ended_s = time.monotonic()
        if meters.gateways:
            meters.gateways.sample()
    return Observed(
        scenario=plan.scenario,
        stories=crowd.stories,
        began_s=began_s,
        ended_s=ended_s,
        wait_limits_s=plan.wait_limits_s,
        waiting_max=crowd.waiting_max,
        client_lag_s_max=crowd.lag_s_max,
        removal_ms=crowd.probes.removal_ms,
        drill_cpu_s=time.process_time() - cpu_before_s,
        gateways=own.gateways if own else len(crowd.door.urls),
        costs=meters.gateways.costs if meters.gateways else None,
        redis_calls=meters.redis.calls if meters.redis else 0 if own else None,
    )


class _Stop:
    """What a signal does: the first one ends the drill, every further one hurries its end."""

    def __init__(self, task: "asyncio.Task[object]", hurry: asyncio.Event, screen: Screen) -> None:
        self.is_asked = False
        self._task = task
        self._hurry = hurry
        self._screen = screen

    def __call__(self) -> None:
        if self.is_asked:
            self._hurry.set()
            return
        self.is_asked = True
        self._screen.say("Stopping: all clients hang up, then all that was started ends.")
        self._task.cancel()
