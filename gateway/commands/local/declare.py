"""What an installation needs declared before it can serve: a database up to date, a tenant, its key, the model."""

import time
from functools import partial

from gateway.commands.pool_desk import PoolDesk, who
from gateway.control.pool_file import PoolFile
from gateway.control.pools import carry_out
from gateway.core.directory import Key, Model, Tenant
from gateway.core.ids import digest, new_secret, time_sorted_id
from gateway.core.zones import load_zone
from gateway.ports.directory import DirectoryStore
from gateway.settings import Settings
from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_pools import SqlPools

DEMO = "demo"  # the tenant, and the project, of the key that is printed


def declare(settings: Settings, secret: str, model: str, file: PoolFile | None = None) -> str:
    """
    Bring the database up to date and declare what is missing; give the secret of a key that works.

    With a *file* that is what it declares, applied as `sluice apply` does; else the one *model*. The secret is the one
    given, unless its key was revoked: then a new one. Repeating it changes nothing.
    """
    migrate(settings.sql_url)
    database = Database(settings.sql_url, timeout_s=settings.database_timeout_s)
    try:
        directory = SqlDirectory(database)
        now_ms = time.time_ns() // 1_000_000
        if directory.tenant(DEMO) is None:
            directory.put_tenant(Tenant(id=DEMO, name="Demo"))
        declared = directory.model(model)
        if file is not None:
            desk = PoolDesk(directory, SqlPools(database), now_ms, load_zone(settings.zone))
            carry_out(desk.pools, partial(desk.plan, file), who=who(), now_ms=now_ms)
        elif declared is None or declared.is_retired or declared.pool != model:
            directory.put_model(Model(name=model, pool=model, created_ms=now_ms))
        return _ensure_key(directory, secret, now_ms)
    finally:
        database.close()


def _ensure_key(directory: DirectoryStore, secret: str, now_ms: int) -> str:
    known = next((key for key in directory.keys(DEMO) if key.digest == digest(secret)), None)
    if known and not known.is_revoked:
        return secret
    secret = new_secret() if known else secret
    directory.put_key(
        Key(
            id=time_sorted_id("key", now_ms),
            tenant=DEMO,
            project=DEMO,
            name="made by `sluice up`",
            digest=digest(secret),
            hint=secret[-4:],
            created_ms=now_ms,
        )
    )
    return secret
