"""The tables of this application."""

from django.db import models


class Visit(models.Model):
    """A visit to a page."""

    page = models.TextField()

    class Meta:
        db_table = "visits"

    def __str__(self) -> str:
        return self.page
