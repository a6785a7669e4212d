"""Faces: what the demo's application runs on."""

from enum import StrEnum

__all__ = ("Face",)


class Face(StrEnum):
    """Tasks of an event loop, or threads."""

    ASYNC = "async"
    SYNC = "sync"

    @property
    def kind(self) -> str:
        """What each writer and reader is."""
        return {Face.ASYNC: "tasks", Face.SYNC: "threads"}[self]
