"""aiopg, for `hasql.aiopg` and `hasql.aiopg_sa`."""
