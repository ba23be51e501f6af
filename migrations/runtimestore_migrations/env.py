"""Runs the migrations on the connection that `runtimestore_server.store.schema` hands over, in its transaction."""

from alembic import context

connection = context.config.attributes["connection"]
# Its transaction began under the migration lock and ends with the caller.
context.configure(connection=connection, transactional_ddl=False)
context.run_migrations()
