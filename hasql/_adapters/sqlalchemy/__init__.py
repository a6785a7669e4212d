"""SQLAlchemy, for `hasql.asyncsqlalchemy`."""
