"""asyncpg, for `hasql.asyncpg` and `hasql.asyncpgsa`, and for SQLAlchemy over it."""
