"""Removes the handlers and notifications that one lease of a connection leaves to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection, Notify
    from psycopg.errors import Diagnostic

    _Base = Connection[Any]
else:
    _Base = object

__all__ = ("HandlerResetMixin",)


class HandlerResetMixin(_Base):
    """Mixed into a connection for threads, before psycopg's class, which does not list handlers."""

    #: How the handlers have changed since `keep_handlers`; None: that was not called yet.
    _of_notices: _Changes | None = None
    _of_notifications: _Changes | None = None
    #: How many notification handlers there are.
    _notified = 0

    def keep_handlers(self) -> None:
        """Make `restore_handlers` restore the handlers that there are now."""
        self._of_notices, self._of_notifications = _Changes(), _Changes()

    def restore_handlers(self) -> None:
        """Remove the handlers that were added since `keep_handlers`; add those that were removed.

        An added handler may belong to a request that is over, and it would be called for what the
        next request does.
        """
        notices, notifications = self._of_notices, self._of_notifications
        if notices:
            notices.undo(self.add_notice_handler, self.remove_notice_handler)
        if notifications:
            notifications.undo(self.add_notify_handler, self.remove_notify_handler)

    def forget_notifications(self) -> None:
        """Discard the unread notifications that have come for the LISTEN of an earlier lease."""
        while self.pgconn.notifies() is not None:  # came after the last answer
            pass
        # psycopg stores notifications only if there is no handler. If there is one, psycopg warns
        # about reading them.
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
    """How a list of handlers differs from what it was. Only the difference is stored."""

    def __init__(self) -> None:
        self._more: list[Any] = []
        self._less: list[Any] = []

    def added(self, handler: object) -> None:
        """Take note that a handler was added."""
        self._move(handler, self._less, self._more)

    def removed(self, handler: object) -> None:
        """Take note that a handler was removed."""
        self._move(handler, self._more, self._less)

    def undo(self, add: Callable[[Any], None], remove: Callable[[Any], None]) -> None:
        """Restore the list by `add` and `remove`, which in turn call `added` and `removed`."""
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
