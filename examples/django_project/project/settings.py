"""Settings: ``DATABASE_URL`` names all hosts, as in ``postgresql://user:secret@db1,db2,db3/app``."""

import os
from typing import Any

from psycopg.conninfo import conninfo_to_dict

_url = conninfo_to_dict(os.environ["DATABASE_URL"])


def _alias(role: str) -> dict[str, Any]:
    return {
        "ENGINE": "hasql.contrib.django",
        "HOST": _url.get("host", ""),
        "PORT": _url.get("port", ""),
        "NAME": _url.get("dbname", ""),
        "USER": _url.get("user", ""),
        "PASSWORD": _url.get("password", ""),
        "OPTIONS": {
            "application_name": _url.get("application_name", "django"),
            # A promotion takes some seconds. Requests that begin then are late, but do not fail.
            "hasql": {"role": role, "acquire_timeout": 15},
        },
    }


DATABASES = {
    "default": _alias("master"),
    "replica": {**_alias("replica"), "TEST": {"MIRROR": "default"}},
}
DATABASE_ROUTERS = ["hasql.contrib.django.ReplicaRouter"]
MIDDLEWARE = ["hasql.contrib.django.read_your_writes"]

INSTALLED_APPS = ["visits"]
ROOT_URLCONF = "project.urls"
SECRET_KEY = os.environ.get("SECRET_KEY", "not for production")
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "test"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

# For Celery, see celery_app.py.
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "memory://")
