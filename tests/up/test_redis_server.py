"""The embedded Redis, the real one."""

import asyncio
import os
import signal
import stat

import psutil
import pytest
import redis.asyncio
from redis.exceptions import AuthenticationError

from gateway.commands.local.children import running
from gateway.commands.local.home import make_home
from gateway.commands.local.listening import choose_port
from gateway.commands.local.redis_server import redis_program, redis_url, wait_for_redis

pytestmark = pytest.mark.redis


@pytest.fixture
def home(tmp_path):
    make_home(tmp_path / "home")
    return tmp_path / "home"


async def started(child, port, password="secret"):
    await wait_for_redis(child, redis_url(port, password))
    return redis.asyncio.from_url(redis_url(port, password), decode_responses=True)


async def test_data_survives_a_stop_and_a_start(home):
    port = choose_port(None)
    for kept in (None, "42"):
        async with running([redis_program(home, port, "secret")], print, asyncio.Event()) as [child]:
            client = await started(child, port)
            assert await client.get("ticket") == kept
            await client.set("ticket", "42")
            await client.aclose()


async def test_a_kill_of_the_process_costs_nothing(home):
    """`appendfsync everysec` bounds what a crash of the machine costs; what a process wrote outlives it."""
    port = choose_port(None)
    async with running([redis_program(home, port, "secret")], lambda _: None, asyncio.Event()) as [child]:
        async with await started(child, port) as client:
            await client.set("ticket", "42")
        os.kill(child.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while child.deaths == 0 or child.pid is None:
                await asyncio.sleep(0.01)
        child.deaths = 0
        async with await started(child, port) as client:
            assert await client.get("ticket") == "42"


async def test_nobody_gets_in_without_the_password(home):
    port = choose_port(None)
    async with running([redis_program(home, port, "secret")], print, asyncio.Event()) as [child]:
        await started(child, port)
        async with redis.asyncio.Redis(port=port) as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.ping()


async def test_the_password_is_in_no_command_line_and_its_file_is_private(home):
    port = choose_port(None)
    async with running([redis_program(home, port, "hidden-word")], print, asyncio.Event()) as [child]:
        assert "hidden-word" not in " ".join(psutil.Process(child.pid).cmdline())
    assert stat.S_IMODE((home / "redis" / "redis.conf").stat().st_mode) == 0o600


async def test_two_servers_never_share_one_folder(home):
    """After `kill -9` of the supervisor its Redis may still be ending; the next start waits for that."""
    port = choose_port(None)
    async with running([redis_program(home, port, "secret")], lambda _: None, asyncio.Event()) as [child]:
        await started(child, port)
        older = child.pid
        await asyncio.to_thread(redis_program, home, choose_port(None), "secret")

        assert not psutil.pid_exists(older) or psutil.Process(older).status() == psutil.STATUS_ZOMBIE


def test_a_kept_port_is_used_again_unless_taken():
    port = choose_port(None)
    assert choose_port(port) == port
