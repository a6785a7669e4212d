"""The module that Django looks for in a backend: its connection wrapper, with PostGIS."""

from django.contrib.gis.db.backends.postgis.base import DatabaseWrapper as PostgisWrapper

from hasql.contrib.django.base import DatabaseWrapper as ClusterWrapper

__all__ = ("DatabaseWrapper",)


class DatabaseWrapper(PostgisWrapper, ClusterWrapper):
    """Django's wrapper for PostGIS, with connections that come from a pool manager."""
