"""`sluice worker`: runs an engine with its agent; its verbs tell a gateway what running workers are to do."""

import time
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from gateway.commands.local.gateway_client import find_gateway
from gateway.commands.local.home import load_credentials
from gateway.commands.output import Format, print_records
from gateway.commands.records import Home
from gateway.commands.worker_pool import HELP, with_declared
from gateway.core.worker_tokens import pool_token
from gateway.errors import InvalidInput, NotFoundError, SluiceError, StartFailed
from gateway.settings import load_settings
from workers.commands import worker

COLUMNS = ("worker", "pool", "state", "in_flight", "running", "waiting", "since_s", "url", "cause")
ENDED_COLUMNS = ("worker", "pool", "state", "drained_s")
POLL_S = 0.5
TIMEOUT_S = 5.0
SILENCE_S_MAX = 30.0  # a gateway may be restarted in the middle of a drain

app = typer.Typer(invoke_without_command=True)

_Workers = Annotated[list[str] | None, typer.Argument(metavar="WORKER…", help="Ids as in `sluice worker list`.")]
_Pool = Annotated[str, typer.Option(help="All workers of this pool.")]
_Url = Annotated[str, typer.Option(help="The gateway to ask. Default: that of --home.")]


def _or_run_an_engine(run: Callable[..., None]) -> Callable[..., None]:
    """Make what typer calls before each verb: *run* with all its options, unless there is a verb."""

    def callback(context: typer.Context, **options: Any) -> None:
        if context.invoked_subcommand is None:
            run(**with_declared(context, options))

    own = Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = signature(run).parameters.values()
    callback.__doc__ = f"{run.__doc__}{HELP}"
    callback.__annotations__ = {"context": typer.Context, **run.__annotations__}
    callback.__signature__ = signature(run).replace(parameters=[own, *parameters])  # type: ignore[attr-defined]
    return callback


app.callback()(_or_run_an_engine(worker))


class Workers:
    """The workers of an installation, asked of one gateway; every gateway follows within a fraction of a second."""

    def __init__(self, url: str, token: str) -> None:
        bearer = {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=f"{url}/admin/v1", headers=bearer, timeout=TIMEOUT_S, trust_env=False)

    def all(self) -> list[dict[str, Any]]:
        """List all. Raises SluiceError with what the gateway says."""
        return [_with_age(one) for one in self._ask("GET", "/workers")["data"]]

    def order(self, worker_id: str, verb: str) -> dict[str, Any]:
        """Cordon, uncordon or drain one; gives it as it is then. Raises SluiceError with what the gateway says."""
        return _with_age(self._ask("POST", f"/workers/{worker_id}/{verb}"))

    def named(self, ids: Sequence[str] | None, pool: str) -> list[str]:
        """Give the ids of the workers that are meant. Raises InvalidInput if it is not said which."""
        if bool(ids) is bool(pool):
            raise InvalidInput("Name workers, as `sluice worker list` shows them, or give a --pool: one of the two.")
        if ids:
            return list(dict.fromkeys(ids))
        found = [one["worker"] for one in self.all() if one["pool"] == pool]
        if not found:
            pools = ", ".join(sorted({one["pool"] for one in self.all()})) or "none"
            raise NotFoundError(f"No worker of the pool {pool!r} is running. Pools with workers: {pools}.")
        return found

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path)
        except httpx.HTTPError as error:
            raise StartFailed(f"The gateway at {self._http.base_url} does not answer: {error}.") from error
        if not answer.is_success:
            raise _refusal(answer)
        return dict(answer.json())


@app.command("list")
def list_workers(home: Home = None, url: _Url = "", pool: _Pool = "", output: Format = "table") -> None:
    """List the workers that run: their state, what they have in flight, since when, and why."""
    found = [one for one in _open(home, url).all() if pool in ("", one["pool"])]
    print_records(COLUMNS, found, output)


@app.command()
def cordon(
    workers: _Workers = None, home: Home = None, url: _Url = "", pool: _Pool = "", output: Format = "table"
) -> None:
    """Give workers no new requests; those in flight go on, and the engines stay."""
    _order("cordon", workers, home, url, pool, output)


@app.command()
def uncordon(
    workers: _Workers = None, home: Home = None, url: _Url = "", pool: _Pool = "", output: Format = "table"
) -> None:
    """Let cordoned workers have requests again. One that drains cannot go back."""
    _order("uncordon", workers, home, url, pool, output)


@app.command()
def sleep(
    workers: _Workers = None, home: Home = None, url: _Url = "", pool: _Pool = "", output: Format = "table"
) -> None:
    """Have workers that were started with --sleep-mode give their GPUs' memory back once they are idle."""
    _order("sleep", workers, home, url, pool, output)


@app.command()
def wake(
    workers: _Workers = None, home: Home = None, url: _Url = "", pool: _Pool = "", output: Format = "table"
) -> None:
    """Let workers that sleep serve again; that takes seconds, not a start's minutes."""
    _order("uncordon", workers, home, url, pool, output)


@app.command()
def drain(
    workers: _Workers = None,
    home: Home = None,
    url: _Url = "",
    pool: _Pool = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when all have ended; progress goes to stderr.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0, help="With --wait: fail after so long. 0: never.")] = 0.0,
    output: Format = "table",
) -> None:
    """
    Give workers no new requests, and end each when those in flight have ended. This cannot be undone.

    Whatever runs the worker may start it again: a rolling restart drains one after the other.
    Example: sluice worker drain worker-1 --wait && sluice worker drain worker-2 --wait
    """
    fleet = _open(home, url)
    ordered = [fleet.order(worker_id, "drain") for worker_id in fleet.named(workers, pool)]
    if not wait:
        print_records(COLUMNS, ordered, output)
        return
    print_records(ENDED_COLUMNS, wait_until_ended(fleet, ordered, timeout_s, _say), output)


@app.command()
def token(
    pool: Annotated[str, typer.Argument(metavar="POOL", help="The pool that workers with it may join, and no other.")],
    home: Home = None,
    output: Format = "table",
) -> None:
    """Print the token of one pool, for a worker on a network that is not trusted: SLUICE_WORKER_TOKEN there."""
    settings = load_settings(home=home)
    credentials = load_credentials(settings.home)
    secret = settings.worker_token.get_secret_value() if settings.worker_token else ""
    secret = secret or (credentials.worker_token if credentials else "")
    if not secret:
        raise InvalidInput("The gateways' worker token is not known here: set SLUICE_WORKER_TOKEN, or give --home.")
    record = {"pool": pool, "token": pool_token(secret, pool)}
    print_records(tuple(record), [record], output)


def wait_until_ended(
    fleet: Workers, ordered: Sequence[dict[str, Any]], timeout_s: float, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """
    Wait until each worker that was *ordered* to drain has ended; *say* is told of each change of what is in flight.

    Gives each with the seconds it took. Raises StartFailed after *timeout_s*, or when the gateway is silent for long.
    """
    began_s, heard_s = time.monotonic(), time.monotonic()
    ended: dict[str, dict[str, Any]] = {}
    told: dict[str, int] = {}
    while True:
        now_s = time.monotonic()
        try:
            draining, heard_s = _draining(fleet), now_s
        except StartFailed:
            if now_s - heard_s > SILENCE_S_MAX:
                raise
        else:
            for one in ordered:
                _follow(one, draining, told, say)
                if one["worker"] not in draining and one["worker"] not in ended:
                    ended[one["worker"]] = one | {"state": "ended", "drained_s": round(now_s - began_s, 1)}
        if len(ended) == len(ordered):
            return [ended[one["worker"]] for one in ordered]
        if timeout_s and now_s - began_s > timeout_s:
            left = ", ".join(one["worker"] for one in ordered if one["worker"] not in ended)
            raise StartFailed(f"After {timeout_s:g} s these still drain: {left}. They go on; SIGTERM hurries an agent.")
        time.sleep(POLL_S)


def _draining(fleet: Workers) -> dict[str, int]:
    """Give what is in flight on each worker that drains; one that was started again under its name does not."""
    return {one["worker"]: one["in_flight"] for one in fleet.all() if one["state"] == "draining"}


def _follow(one: dict[str, Any], draining: dict[str, int], told: dict[str, int], say: Callable[[str], None]) -> None:
    worker_id = one["worker"]
    in_flight = draining.get(worker_id, -1)
    if told.get(worker_id) != in_flight:
        told[worker_id] = in_flight
        say(f"{worker_id} has ended" if in_flight < 0 else f"{worker_id} drains, {in_flight} in flight")


def _order(verb: str, ids: Sequence[str] | None, home: Any, url: str, pool: str, output: str) -> None:
    fleet = _open(home, url)
    print_records(COLUMNS, [fleet.order(worker_id, verb) for worker_id in fleet.named(ids, pool)], output)


def _open(home: Any, url: str) -> Workers:
    found, token = find_gateway(load_settings(home=home))
    return Workers((url or found).rstrip("/"), token)


def _say(line: str) -> None:
    Console(stderr=True).print(line, markup=False, highlight=False)


def _with_age(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"since_s": max(0, round(time.time() - one["since_ms"] / 1000))}


def _refusal(answer: httpx.Response) -> SluiceError:
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The gateway answered {answer.status_code}."
    return NotFoundError(message) if answer.status_code == httpx.codes.NOT_FOUND else InvalidInput(message)
