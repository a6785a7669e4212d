"""asyncpg, for `hasql.asyncpg` and `hasql.asyncpgsa`, and beneath SQLAlchemy."""
