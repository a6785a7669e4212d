"""The faces of hasql: the demo's application uses tasks or threads."""

from enum import StrEnum

__all__ = ("Face",)


class Face(StrEnum):
    """Tasks of an event loop, or threads."""

    ASYNC = "async"
    SYNC = "sync"

    @property
    def kind(self) -> str:
        """What the writers and readers are: tasks or threads."""
        return {Face.ASYNC: "tasks", Face.SYNC: "threads"}[self]
