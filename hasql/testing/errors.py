"""The error of a test cluster."""

from hasql.errors import HasqlError

__all__ = ("ClusterError",)


class ClusterError(HasqlError, RuntimeError):
    """A test cluster or one of its servers cannot do what was asked.

    The message says why and, where there is one, names a remedy.
    """
