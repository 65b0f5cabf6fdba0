"""The options of `sluice drill burst`, checked: a wrong one is an InvalidInput that says what to do."""

import math
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.commands.drill.capacity import fleet_for
from gateway.commands.drill.run import OwnStage
from gateway.commands.drill.scenario import Scenario
from gateway.commands.drill.target import Address
from gateway.commands.local.gateway_client import find_gateway
from gateway.core.directory import ServiceClass
from gateway.errors import InvalidInput
from gateway.settings import load_settings

GATEWAYS, CAPACITY = 3, 60.0  # unless told otherwise
END_S, END_FACTOR = 600.0, 3.0  # as long as SDKs wait; or, where the capacity is known, so many times what it takes
END_SPARE_S = 60.0
FILES_SPARE = 200  # open files beyond one for each client

Where = OwnStage | Address


def factor(option: str, text: str) -> float:
    """Read a factor such as 300x. Raises InvalidInput for what is none, or below 1."""
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = math.nan
    if not 1 <= value < math.inf:
        raise InvalidInput(f"{option} {text}: this must be a factor of 1 or more, such as 2x.")
    return value


def shares(text: str) -> dict[str, float]:
    """Read shares such as interactive=20,standard=80; gives them as parts of 1. Raises InvalidInput."""
    known = [one.label for one in ServiceClass]
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        if name not in known:
            raise InvalidInput(f"--classes {text}: {name!r} is not a class. There are {', '.join(known)}.")
        given[name] = _share(text, share)
    total = sum(given.values())
    if not total:
        raise InvalidInput(f"--classes {text}: at least one share must be above 0.")
    return {name: share / total for name, share in given.items() if share}


def _share(text: str, share: str) -> float:
    try:
        value = float(share)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InvalidInput(f"--classes {text}: {share!r} is not a share. Write interactive=20,standard=70,batch=10.")
    return value


def check_belongs(unwanted: Mapping[str, object], *, is_self_contained: bool) -> None:
    """Raise InvalidInput if an option was given that means nothing with, or without, --self-contained."""
    for option, value in unwanted.items():
        if value not in (None, []):
            which = "means nothing with" if is_self_contained else "needs"
            raise InvalidInput(f"{option} {which} --self-contained, where gateways and workers are the drill's own.")


def check_numbers(given: Mapping[str, float | None]) -> None:
    """Raise InvalidInput for inf, which a range without an end lets pass."""
    for option, value in given.items():
        if value is not None and not math.isfinite(value):
            raise InvalidInput(f"{option} {value}: this must be a finite number.")


def check_writable(*files: Path | None) -> None:
    """Raise InvalidInput now, not after the drill, if a file cannot be written."""
    for file in files:
        if file is not None:
            try:
                file.open("a").close()
            except OSError as error:
                raise InvalidInput(f"{file} cannot be written: {error.strerror}. Choose another place.") from error


def allow_files(users: int) -> None:
    """Let this process have a connection for each of *users*. Raises InvalidInput if the system does not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < users + FILES_SPARE:
        raise InvalidInput(
            f"--users {users}: this system allows a process {hard} open files, and each user is one. Ask for at most "
            f"{max(1, hard - FILES_SPARE)} users, or raise the limit (ulimit -Hn)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def own_stage(
    scenario: Scenario,
    gateways: int | None,
    capacity: float | None,
    scale_at: float | None,
    growth: float,
    cold_start_s: float,
) -> OwnStage:
    """Lay out an installation of the drill's own. Raises InvalidInput for a capacity that cannot be simulated."""
    rate = capacity or CAPACITY
    fleet = fleet_for(
        rate,
        growth if scale_at is not None else 1.0,
        load_s=cold_start_s if scale_at is not None else 0.0,
        prompt_tokens=scenario.prompt_tokens,
        output_tokens=scenario.output_tokens,
    )
    return OwnStage(
        gateways=gateways or GATEWAYS,
        fleet=fleet,
        rate=rate,
        scale_at_s=(scale_at or 0.0) * scenario.users / rate,
    )


def address(home: Path | None, urls: Sequence[str] | None, key: str | None, model: str | None) -> Address:
    """Find the gateways of --url, else that of the home, and the token that opens their admin plane."""
    settings = load_settings(home=home)
    url, token = find_gateway(settings)
    given = tuple(one.rstrip("/") for one in urls or ())
    return Address(urls=given or (url,), admin_token=token, key=key, model=model)


def time_to_end(where: Where, users: int) -> float:
    """Give the seconds after the last arrival that a drill may take."""
    return END_SPARE_S + END_FACTOR * users / where.rate if isinstance(where, OwnStage) else END_S


def wait_limits(home: Path | None) -> dict[str, float]:
    """Give how long a request of each class may wait, by the settings of this place."""
    limits = load_settings(home=home).queue.wait_s_max
    return {one.label: getattr(limits, one.label) for one in ServiceClass}


def capacity_in_words(where: Where) -> str:
    """Say what the workers can do."""
    if isinstance(where, Address):
        return "as it is there"
    fleet = where.fleet
    words = f"{where.rate:g} requests/s ({fleet.workers} × {fleet.seqs} places)"
    if not fleet.added:
        return words
    growth = (fleet.workers + fleet.added) / fleet.workers
    return f"{words}, {growth:g} times that from {where.scale_at_s:.0f} s on"
