"""psycopg2, for `hasql.sync.psycopg2`, and for SQLAlchemy and aiopg over it."""
