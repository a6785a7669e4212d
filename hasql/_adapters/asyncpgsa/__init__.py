"""asyncpgsa, for `hasql.asyncpgsa`: asyncpg's pool with connections that take expressions."""
