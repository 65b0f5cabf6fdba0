"""Runs migrations on the connection that `gateway.stores.schema.migrate` hands over, inside its transaction."""

from alembic import context

from gateway.stores.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
