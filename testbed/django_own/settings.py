"""Settings for Django's own tests, see its tests/README.rst."""

import json
import os

import django

DATABASES = json.loads(os.environ["HASQL_DJANGO_OWN"])
SECRET_KEY = "of a test"  # noqa: S105
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if django.VERSION < (6, 0):  # the tests of later versions expect the default
    DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
