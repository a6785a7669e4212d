"""The backend over Django's own for PostGIS."""
