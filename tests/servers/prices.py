"""Prices for tests of a whole gateway: declared in its Directory, and waited for."""

from gateway.core.prices import PriceVersion, Tier, Unit
from gateway.stores.sql_directory import SqlDirectory
from tests.waiting import until

# Unlike one another, and such that amounts have to be rounded.
FEMTO = {
    Unit.INPUT: 300_001_000,
    Unit.CACHED_INPUT: 60_007_000,
    Unit.OUTPUT: 900_003_000,
    Unit.REASONING: 1_200_011_000,
    Unit.IMAGE: 5_000_013_000,
    Unit.AUDIO: 70_017_000,
}


def version(identity="price_1", **fields) -> PriceVersion:
    """Give a version of the prices of model `tiny`, in force since long ago unless *fields* say otherwise."""
    return PriceVersion(**{"id": identity, "model": "tiny", "from_ms": 0, "tiers": (Tier(0, FEMTO),), **fields})


async def declare(path, *versions: PriceVersion) -> None:
    """Declare *versions* and wait until the gateway of *path* knows them."""
    SqlDirectory(path.gateway._database).put_prices(versions)
    known = path.gateway._directory
    await until(lambda: all(known.snapshot.prices.by_id.get(each.id) == each for each in versions))
