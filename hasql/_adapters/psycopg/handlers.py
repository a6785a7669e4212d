"""The handlers and the notifications that whoever has a connection leaves to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection, Notify
    from psycopg.errors import Diagnostic

    _Base = Connection[Any]
else:
    _Base = object

__all__ = ("KeepsHandlers",)


class KeepsHandlers(_Base):
    """Mixed into a connection for threads, before psycopg's class, which lists no handlers."""

    #: What was done to the handlers since `keep_handlers`; None: it was not called yet.
    _of_notices: _Changes | None = None
    _of_notifications: _Changes | None = None
    #: How many handlers of notifications there are.
    _notified = 0

    def keep_handlers(self) -> None:
        """Have `restore_handlers` lead back to those that there are now."""
        self._of_notices, self._of_notifications = _Changes(), _Changes()

    def restore_handlers(self) -> None:
        """Remove the handlers that were added since `keep_handlers`; add those that were removed.

        They may be of a request that is over, and would be told what the next one does.
        """
        notices, notifications = self._of_notices, self._of_notifications
        if notices:
            notices.undo(self.add_notice_handler, self.remove_notice_handler)
        if notifications:
            notifications.undo(self.add_notify_handler, self.remove_notify_handler)

    def forget_notifications(self) -> None:
        """Forget what has come for a LISTEN that is over, and that nobody has asked for."""
        while self.pgconn.notifies() is not None:  # came behind the last answer
            pass
        # psycopg keeps them only where there is no handler, and warns of a look at them else.
        if not self._notified:
            for _ in self.notifies(timeout=0):
                pass

    def add_notice_handler(self, callback: Callable[[Diagnostic], None]) -> None:
        """Add a handler, as psycopg does."""
        super().add_notice_handler(callback)
        if self._of_notices is not None:
            self._of_notices.added(callback)

    def remove_notice_handler(self, callback: Callable[[Diagnostic], None]) -> None:
        """Remove a handler, as psycopg does."""
        super().remove_notice_handler(callback)
        if self._of_notices is not None:
            self._of_notices.removed(callback)

    def add_notify_handler(self, callback: Callable[[Notify], None]) -> None:
        """Add a handler, as psycopg does."""
        super().add_notify_handler(callback)
        self._notified += 1
        if self._of_notifications is not None:
            self._of_notifications.added(callback)

    def remove_notify_handler(self, callback: Callable[[Notify], None]) -> None:
        """Remove a handler, as psycopg does."""
        super().remove_notify_handler(callback)
        self._notified -= 1
        if self._of_notifications is not None:
            self._of_notifications.removed(callback)


class _Changes:
    """What differs in a list of handlers from an earlier one; as long as the difference."""

    def __init__(self) -> None:
        self._more: list[Any] = []
        self._less: list[Any] = []

    def added(self, handler: object) -> None:
        """Take note that one was added."""
        self._move(handler, self._less, self._more)

    def removed(self, handler: object) -> None:
        """Take note that one was removed."""
        self._move(handler, self._more, self._less)

    def undo(self, add: Callable[[Any], None], remove: Callable[[Any], None]) -> None:
        """Make the list what it was, by what takes note of that here."""
        for handler in tuple(self._more):
            remove(handler)
        for handler in tuple(self._less):
            add(handler)

    @staticmethod
    def _move(handler: object, undone: list[Any], done: list[Any]) -> None:
        if handler in undone:
            undone.remove(handler)
        else:
            done.append(handler)
