"""The backend that extends Django's own for PostGIS."""
