"""hasql.contrib.django.postgis on a cluster whose servers have PostGIS."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from hasql.testing import LocalCluster
from hasql.testing._account import Account
from hasql.testing.binaries import find_local
from testbed.django_project import databases_of
from tests.middlemen import skip

ROOT = Path(__file__).parents[2]

#: A program of its own, because GeoDjango is a different application from the other tests'.
_PROGRAM = """
import json, os, sys
import django
from django.conf import settings

settings.configure(
    DATABASES=json.loads(sys.argv[1]),
    DATABASE_ROUTERS=["hasql.contrib.django.ReplicaRouter"],
    INSTALLED_APPS=["django.contrib.gis"],
)
django.setup()

from django.contrib.gis.db import models
from django.contrib.gis.geos import Point
from django.contrib.gis.measure import D
from django.core.signals import request_started
from django.db import connections

class City(models.Model):
    place = models.PointField(geography=True)
    class Meta:
        app_label = "cities"

for alias in connections:
    assert connections[alias].vendor == "postgresql" and connections[alias].ops.postgis
connections["default"].prepare_database()
with connections["default"].schema_editor() as editor:
    editor.create_model(City)
City.objects.create(place=Point(2.35, 48.86))
assert City.objects.all().db == "default"
near = City.objects.filter(place__distance_lte=(Point(2.36, 48.86), D(km=2)))
assert near.get().place.coords == (2.35, 48.86)
connections.close_all()
request_started.send(sender=None)
assert City.objects.all().db == "replica"
while City._meta.db_table not in connections["replica"].introspection.table_names():
    pass
while not City.objects.exists():
    pass
# Aliases that share their connections have each other's adapters on them, too.
for alias in ("default", "replica", "default"):
    found = near.using(alias).get()
    assert found.place.coords == (2.35, 48.86) and found._state.db == alias
    connections[alias].close()
assert connections["default"].manager is connections["replica"].manager
connections["default"].manager.close()
print("well")
"""


def test_geometries_go_to_the_master_and_come_from_a_replica() -> None:
    extensions = list(Path("/usr/share/postgresql").glob("*/extension/postgis.control"))
    if find_local(None, Account.for_servers()) is None or not extensions:
        skip("there is no PostGIS: apt-get install postgresql-postgis")
    with LocalCluster(replicas=1, source="local") as cluster:
        asyncio.run(cluster.master.sql("ALTER ROLE app SUPERUSER"))
        databases = databases_of(cluster, "postgis")
        for each in databases.values():
            each["ENGINE"] = "hasql.contrib.django.postgis"
        result = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps(databases)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert (result.returncode, result.stdout) == (0, "well\n"), result.stderr
