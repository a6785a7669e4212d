"""psycopg 3, for `hasql.psycopg3`, and beneath SQLAlchemy."""
