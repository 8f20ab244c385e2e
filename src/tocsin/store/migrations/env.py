"""Alembic's entry: runs the versions on the connection it is given."""

from alembic import context

from tocsin.store import schema

context.configure(
    connection=context.config.attributes["connection"], target_metadata=schema.metadata, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
