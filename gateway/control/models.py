"""Models: the names that clients may ask for, and the pools that serve them. Verbs over the Directory."""

from dataclasses import replace

from gateway.control.names import check_name
from gateway.core.directory import Model
from gateway.errors import AlreadyExists, NotFoundError
from gateway.ports.directory import DirectoryStore


def declare_model(store: DirectoryStore, name: str, pool: str, *, now_ms: int) -> Model:
    """
    Let clients ask for *name*, served by the workers of *pool*. Idempotent; brings a retired model back.

    Raises AlreadyExists if another pool serves it, or several share it, InvalidInput for a name that cannot be.
    """
    check_name("A model's name", name)
    check_name("A pool's name", pool)
    known = store.model(name)
    if known and not known.is_retired:
        if known.weights:
            shared = " and ".join(map(repr, known.pools))
            advice = "Change it there and `sluice apply` it, or retire it first."
            raise AlreadyExists(f"The model {name!r} is shared by pools {shared}, as sluice.yaml says. {advice}")
        if known.pool != pool:
            advice = f"Retire it first: `sluice models retire {name}`."
            raise AlreadyExists(f"The model {name!r} is served by pool {known.pool!r} already. {advice}")
        return known
    model = Model(name=name, pool=pool, created_ms=known.created_ms if known else now_ms)
    store.put_model(model)
    return model


def retire_model(store: DirectoryStore, name: str) -> Model:
    """Answer 404 to whoever asks for *name* from now on. Idempotent. Raises NotFoundError."""
    model = store.model(name)
    if model is None:
        raise NotFoundError(f"There is no model {name!r}. See `sluice models list`.")
    retired = replace(model, is_retired=True)
    if retired != model:
        store.put_model(retired)
    return retired
