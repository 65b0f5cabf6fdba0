"""What a price must name outside of the book: models and tenants of the Directory."""

from collections.abc import Iterable, Mapping, Sequence

from gateway.control.price_entries import PriceEntry
from gateway.core.directory import Model
from gateway.core.money import shown
from gateway.errors import InvalidInput
from gateway.ports.directory import DirectoryStore


def check_entries(
    store: DirectoryStore,
    entries: Sequence[PriceEntry],
    *,
    allows_unknown_models: bool,
    coming: Iterable[Model] = (),
) -> None:
    """
    Raise InvalidInput for the first of *entries* that names what is not there.

    Models that are *coming* with the same step count as if they were there.
    """
    models = {model.name: model for model in (*store.models(), *coming)}
    tenants = {tenant.id for tenant in store.tenants()}
    for entry in entries:
        if not allows_unknown_models:
            _check_model(entry, models)
        if entry.tenant and entry.tenant not in tenants:
            message = f"{entry.where}: tenant {shown(entry.tenant)} does not exist"
            raise InvalidInput(f"{message}. See `sluice tenants list`; leave it out for everybody's price.")


def _check_model(entry: PriceEntry, models: Mapping[str, Model]) -> None:
    """Refuse a model or a pool that nobody could ask for: such a price would never be found."""
    advice = "--allow-unknown-models takes it for one that is yet to come."
    known = models.get(entry.model)
    if known is None:
        raise InvalidInput(
            f"{entry.where}: model {shown(entry.model)} does not exist. See `sluice models list`; {advice}"
        )
    if entry.pool not in {"", *known.pools}:
        serving = " and ".join(map(shown, known.pools))
        message = f"{entry.where}: pool {shown(entry.pool)} does not serve {entry.model}, pool {serving} does"
        raise InvalidInput(f"{message}. Leave it out to price all pools; {advice}")
