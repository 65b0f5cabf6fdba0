"""What `sluice check` and `sluice apply` share: the file, the database, and what one would do to the other."""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from gateway.commands.records import now_ms, open_database
from gateway.control.pool_file import PoolFile, read_pool_file
from gateway.control.pools import ApplyPlan, plan_apply, with_prices
from gateway.control.price_entries import PriceEntry
from gateway.control.price_files import form_of, read_prices
from gateway.control.prices import Permits, PricePlan, plan_import
from gateway.core.zones import load_zone
from gateway.errors import InvalidInput
from gateway.marked_yaml import at_line
from gateway.settings import config_path
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_pools import SqlPools

File = Annotated[
    Path | None, typer.Argument(help="A sluice.yaml. Default: SLUICE_CONFIG, else ./sluice.yaml.", metavar="[FILE]")
]


@dataclass(frozen=True, slots=True)
class PoolDesk:
    """What a verb works with: the stores, the instant, the zone of dates, and what it may do."""

    directory: SqlDirectory
    pools: SqlPools
    now_ms: int
    zone: ZoneInfo
    takes_over: bool = False
    backdates: bool = False
    ledger: SqlBudgets | None = None

    def plan(self, file: PoolFile) -> ApplyPlan:
        """Tell what applying *file* would do, with its prices. Raises InvalidInput for a price file that is wrong."""
        plan = plan_apply(self.pools.declared(), file, now_ms=self.now_ms, takes_over=self.takes_over)
        return with_prices(plan, self._prices(file, plan)) if file.prices else plan

    def plan_rollback(self, number: int) -> ApplyPlan:
        """Tell what bringing version *number* back would do; prices stay. Raises InvalidInput if there is none."""
        applied = self.pools.applied(number)
        if applied is None:
            raise InvalidInput(f"Version {number} was never applied. See `sluice apply --history`.")
        file = read_pool_file(applied.text.encode(), f"version {number}")
        file.check()
        return plan_apply(
            self.pools.declared(), file, now_ms=self.now_ms, takes_over=self.takes_over, rolls_back_to=number
        )

    def _prices(self, file: PoolFile, plan: ApplyPlan) -> PricePlan:
        try:
            entries = read_price_file(file, self.zone)
        except InvalidInput as error:
            spot = file.marked.find(("prices",)).spot
            raise InvalidInput(at_line(file.file, spot, "prices", str(error).rstrip(".")) + ".") from error
        permits, coming = Permits(backdate=self.backdates), plan.writes.models
        return plan_import(
            self.directory,
            entries,
            now_ms=self.now_ms,
            permits=permits,
            zone=self.zone,
            coming=coming,
            ledger=self.ledger,
        )


@contextmanager
def open_desk(
    file: Path | None,
    home: Path | None,
    database_url: str | None,
    *,
    takes_over: bool = False,
    backdates: bool = False,
) -> Iterator[PoolDesk]:
    """Open the database that *file*'s settings, or these options, name. Raises InvalidInput, StoreUnavailable."""
    with open_database(home, database_url, config=file) as (settings, database):
        zone, ledger = load_zone(settings.zone), SqlBudgets(database)
        yield PoolDesk(SqlDirectory(database), SqlPools(database), now_ms(), zone, takes_over, backdates, ledger)


def read_price_file(file: PoolFile, zone: ZoneInfo) -> tuple[PriceEntry, ...]:
    """Read the prices that *file* names by their path from it. Raises InvalidInput naming the entry."""
    path = Path(file.file).parent / file.prices
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    return read_prices(content, form_of(str(path)), str(path), zone)


def read_file(path: Path | None) -> PoolFile:
    """Read a sluice.yaml. Raises InvalidInput if it cannot be read, or is no YAML."""
    found = config_path(config=path)
    try:
        return read_pool_file(found.read_bytes(), str(found))
    except OSError as error:
        raise InvalidInput(f"{found} cannot be read: {error.strerror}. Check the path and its permissions.") from error


def who() -> str:
    """Name who runs this, and where."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
