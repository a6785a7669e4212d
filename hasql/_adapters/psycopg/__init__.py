"""psycopg 3, for `hasql.psycopg3`, and for SQLAlchemy over it."""
