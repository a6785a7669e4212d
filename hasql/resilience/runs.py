"""The runs of one manager: the part that tasks and threads share."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic

from hasql.diagnostics import about
from hasql.driver import ConnT, PoolT
from hasql.errors import HasqlError
from hasql.metrics import RunMetrics
from hasql.resilience.commit_outcome import CommitMark, CommitUnknownError, Outcome
from hasql.resilience.error_rules import Category
from hasql.resilience.run_means import RunMeans
from hasql.resilience.unit_of_work import UnitOfWork

__all__ = ("Runs", "no_work", "within_another")

log = logging.getLogger("hasql")


class Runs(Generic[PoolT, ConnT]):
    """The part of the runs that needs no waiting."""

    def __init__(self, means: RunMeans) -> None:
        self._means = means
        self.rules = means.rules
        #: The tasks, or the ids of the threads, that are within a run. Each removes itself at the
        #: end, whatever interrupts it: else that thread could never run anything again.
        self._within: set[object] = set()
        self._ended = self._found = self._unknown = 0
        self._retried = dict.fromkeys(Category, 0)

    def measure(self) -> RunMetrics:
        """Return what has been counted."""
        return RunMetrics(
            count=self._ended,
            retries_infrastructure=self._retried[Category.INFRASTRUCTURE],
            retries_overload=self._retried[Category.OVERLOAD],
            retries_conflict=self._retried[Category.CONFLICT],
            commits_found=self._found,
            commits_unknown=self._unknown,
        )

    def _end(self, unit: UnitOfWork) -> None:
        """Count a run that has ended. Runs of threads call it under the guard."""
        self._ended += 1
        if unit.asks:
            self._end_question(unit)
        if unit.has_failed:
            unit.forget()
            for category in unit.retried:
                self._retried[category] += 1

    def expect_question(self, unit: UnitOfWork) -> None:
        """Tell the finder of commits that a unit of work is about to ask."""
        unit.asks = True
        self._means.finder.expect_question(unit)

    def _end_question(self, unit: UnitOfWork) -> None:
        self._means.finder.end_question(unit)
        unit.asks = False

    def _take_outcome(self, unit: UnitOfWork, outcome: Outcome, error: Exception) -> bool:
        """Take the outcome of a commit that was found; tell whether the work is done.

        Raises CommitUnknownError if the outcome is unknown and the work is not idempotent.
        """
        known = outcome is not Outcome.UNKNOWN
        with self._means.guard:
            self._found += known
            self._unknown += not known
        done = unit.take_outcome(outcome)
        if done is None:
            raise self._unknown_outcome(unit) from error
        return done

    def _unknown_outcome(self, unit: UnitOfWork) -> CommitUnknownError:
        host, marks = unit.host_in_doubt, unit.in_doubt
        assert host is not None  # noqa: S101  # some commit is in doubt
        return CommitUnknownError(host, marks[-1], partial(self._find_again, marks))

    def _check_doubt(self, unit: UnitOfWork, error: Exception) -> None:
        """Raise CommitUnknownError in place of an error that hides a commit in doubt."""
        if unit.leaves_in_doubt(error):
            raise self._unknown_outcome(unit) from error

    def _find_again(self, marks: Sequence[CommitMark | None], seconds: float) -> Any:  # noqa: ANN401  # by face
        """Ask again, within so many seconds, whether any of the marks was committed."""
        raise NotImplementedError

    def note_mark(self, mark: CommitMark) -> None:
        """Pass a mark that was read to the finder of commits."""
        self._means.finder.note_mark(mark)

    def note_refusal(self, unit: UnitOfWork, error: Exception) -> None:
        """Stop asking a server for marks if it has just refused the question for one."""
        node = unit.node
        if unit.mark_was_refused and node is not None and not node.lacks_commit_marks:
            node.lacks_commit_marks = True
            log.warning(
                "%s does not report transaction ids, so the outcome of a lost commit cannot be "
                "found out: %s",
                node.host,
                self._means.hide(repr(error)),
                extra=about("marks_refused", host=node.host),
            )


def within_another() -> HasqlError:
    """Make the error for a run that is called within another run."""
    return HasqlError(
        "this was called inside a run of the same manager: it would be a separate transaction, "
        "which would stay even if the outer one is rolled back or tried again. Have the work use "
        "the connection that it was given, or begin the other run after this one has ended"
    )


def no_work(work: object, takes: str = "a connection") -> TypeError:
    """Make the error for a work that cannot be called."""
    return TypeError(f"work must be a function that takes {takes}, not {work!r}")
