"""What people declare, from tenants to prices. Control writes it, the data plane reads snapshots of it."""

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.core.budgets import Budget
from gateway.core.directory import Changes, Key, Model, Snapshot, Tenant
from gateway.core.limits import Limit
from gateway.core.prices import PriceVersion


class DirectoryStore(Protocol):
    """
    The Directory in its store. Blocking: call it from a thread, never on the event loop.

    Every write is one transaction that raises the directory's version by one and stamps the row with it; versions
    commit in order, so a reader that asks for changes above v misses nothing. All raise StoreUnavailable within
    their time limit if the store does not answer.
    """

    def changes_since(self, version: int) -> Changes | None:
        """
        Read the rows that changed above *version*; None if nothing did. One cheap query when nothing changed.

        A store that is itself below *version* was restored from a backup: all its rows are given, and the reader must
        start again from an empty snapshot.
        """

    def put_tenant(self, tenant: Tenant, *, must_be_new: bool = False) -> None:
        """Create or replace a tenant, by id. Idempotent, unless it *must_be_new*: then a taken id is AlreadyExists."""

    def change_tenant(self, tenant_id: str, **values: Any) -> Tenant:
        """
        Set some fields of a tenant, leaving the others as they are at that moment; gives the tenant.

        Idempotent: a change to what is already so raises no version. NotFoundError if there is no such tenant.
        """

    def put_key(self, key: Key) -> None:
        """Create or replace a key, by id. Idempotent. NotFoundError if its tenant does not exist."""

    def put_model(self, model: Model) -> None:
        """Create or replace a model, by name. Idempotent."""

    def put_prices(self, versions: Sequence[PriceVersion], *, seen: Sequence[PriceVersion] | None = None) -> None:
        """
        Create or replace versions of prices, by id, all of them in one transaction. Idempotent.

        *seen* is what `prices` gave when it was decided: AlreadyExists, and nothing written, if it has changed since.
        """

    def put_limit(self, limit: Limit) -> None:
        """Create or replace a limit, by id. Idempotent."""

    def put_budget(self, budget: Budget) -> None:
        """
        Create or replace a budget, by id. Idempotent.

        In the same transaction it is counted what its first period has spent already (core/spending.py).
        """

    def tenant(self, tenant_id: str) -> Tenant | None:
        """Find a tenant."""

    def key(self, key_id: str) -> Key | None:
        """Find a key."""

    def model(self, name: str) -> Model | None:
        """Find a model."""

    def tenants(self) -> Sequence[Tenant]:
        """List all tenants, by name."""

    def keys(self, tenant: str | None = None) -> Sequence[Key]:
        """List the keys of a tenant, or all, newest first; revoked ones included."""

    def models(self) -> Sequence[Model]:
        """List all models, by name."""

    def prices(self) -> Sequence[PriceVersion]:
        """List all versions that ever were, by model and time, withdrawn ones included."""

    def limits(self) -> Sequence[Limit]:
        """List all limits, removed ones included."""

    def budgets(self) -> Sequence[Budget]:
        """List all budgets, removed ones included."""


class DirectoryReader(Protocol):
    """The data plane's view: a snapshot in memory, refreshed in the background, kept on disk for a cold start."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot this process has. Never blocks, never raises."""
