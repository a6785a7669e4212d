"""What there is in the database."""

from django.db import models


class Visit(models.Model):
    """Somebody has visited a page."""

    page = models.TextField()

    class Meta:
        db_table = "visits"

    def __str__(self) -> str:
        return self.page
