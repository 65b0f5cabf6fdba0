"""All clients of a drill: each comes at its time, to the next gateway in turn, and leaves when its patience ends."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gateway.commands.drill.client import Client, Ending, Story
from gateway.commands.drill.hangups import Probes
from gateway.commands.drill.scenario import Visit
from gateway.core.directory import ServiceClass

CONNECT_S_MAX = 30.0
_WORDS = ("bade", "fogi", "kalo", "mira", "geda", "rola", "libo", "doke", "gima", "lero", "kefo", "balo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where a crowd goes in: gateways as a load balancer spreads over them, a model, and the key of each tenant."""

    urls: tuple[str, ...]
    model: str
    keys: tuple[str, ...] = field(repr=False)


class Crowd:
    """Runs *visits* against *door*; `stories` has what became of each, in order of arrival."""

    def __init__(self, visits: Sequence[Visit], door: Door) -> None:
        self.stories: list[Story] = []
        asked = {visit.service_class for visit in visits}
        self.counts = {one.label: Counter[Ending]() for one in ServiceClass if one.label in asked}
        self.waiting_max = 0
        self.lag_s_max = 0.0
        self.began_s = 0.0
        self.probes = Probes(door.urls)
        self._visits = visits
        self.door = door
        self._places = [(urlsplit(url).hostname or url, urlsplit(url).port or 80) for url in door.urls]
        self._under_way: dict[int, Client] = {}  # by the visit's number
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_calm = asyncio.Event()

    async def run(self, began_s: float, wait_s_max: float) -> None:
        """
        Let everybody come, the burst from *began_s* (time.monotonic()) on; return when all have ended.

        Who has no answer *wait_s_max* after the last arrival stays WAITING or RUNNING. Cancelled, all hang up.
        """
        self.began_s = began_s
        try:
            await self._let_in()
            async with asyncio.timeout(wait_s_max):
                while self._under_way or self._tasks:
                    self._is_calm.clear()
                    await self._is_calm.wait()
        except TimeoutError:
            pass
        finally:
            await self._send_home()

    def count(self, ending: Ending) -> int:
        """Count the visits in this state, whatever their class."""
        return sum(counter[ending] for counter in self.counts.values())

    async def _let_in(self) -> None:
        for visit in self._visits:
            due_s = self.began_s + visit.at_s
            if (pause_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(pause_s)
            self.lag_s_max = max(self.lag_s_max, time.monotonic() - due_s)
            self._start(self._come(visit))

    async def _come(self, visit: Visit) -> None:
        gateway = visit.number % len(self._places)
        story = Story(visit, gateway, sent_s=time.monotonic())
        self.stories.append(story)
        self._enter(story)
        client = Client(story, self._request(visit, gateway), self._note)
        self._under_way[visit.number] = client
        host, port = self._places[gateway]
        self._plan_leaving(client)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await asyncio.get_running_loop().create_connection(lambda: client, host, port)
        except (OSError, TimeoutError) as error:
            client.fail(f"no_connection ({type(error).__name__})")

    def _plan_leaving(self, client: Client) -> None:
        visit = client.story.visit
        loop = asyncio.get_running_loop()
        if visit.hangs_up_s < visit.patience_s:
            self._timers[visit.number] = loop.call_later(visit.hangs_up_s, self._hang_up, client)
        elif visit.patience_s < float("inf"):
            self._timers[visit.number] = loop.call_later(visit.patience_s, self._lose_patience, client)

    def _lose_patience(self, client: Client) -> None:
        if client.is_waiting:
            client.leave()

    def _hang_up(self, client: Client) -> None:
        if client.is_waiting:
            self._start(self.probes.watch_leaving(client, self.door.keys[client.story.visit.tenant]))

    def _enter(self, story: Story) -> None:
        self.counts[story.visit.service_class][story.ending] += 1
        self.waiting_max = max(self.waiting_max, self.count(Ending.WAITING))

    def _note(self, story: Story, before: Ending) -> None:
        counter = self.counts[story.visit.service_class]
        counter[before] -= 1
        counter[story.ending] += 1
        if story.ended_s is not None:
            self._forget(story.visit.number)

    def _forget(self, number: int) -> None:
        del self._under_way[number]
        if timer := self._timers.pop(number, None):
            timer.cancel()
        self._is_calm.set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._end_task)

    def _end_task(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._is_calm.set()

    def _request(self, visit: Visit, gateway: int) -> bytes:
        host, port = self._places[gateway]
        body = {
            "model": self.door.model,
            "messages": [{"role": "user", "content": _prompt(visit)}],
            "max_tokens": visit.output_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\n"
            f"authorization: Bearer {self.door.keys[visit.tenant]}\r\nx-sluice-class: {visit.service_class}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data

    async def _send_home(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for client in self._under_way.values():
            client.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.probes.close()


def _prompt(visit: Visit) -> str:
    """Write about so many tokens; it begins with the visit's number, so that no prefix is shared."""
    start = visit.number % len(_WORDS)
    turn = (*_WORDS[start:], *_WORDS[:start])
    rounds = visit.prompt_tokens // len(turn) + 1
    return " ".join([str(visit.number), *(turn * rounds)[: visit.prompt_tokens - 1]])
