"""Celery's tasks, which read and write as views do."""

from celery import shared_task
from django.db import connection

from visits.models import Visit


@shared_task
def visit(page: str) -> int:
    """Write, and return the process ID of the session that has written it."""
    Visit.objects.create(page=page)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])
