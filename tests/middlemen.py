"""A pytest plugin: starts PgBouncer and HAProxy for a test, and ends them with it."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn, Protocol

import pytest

from hasql.testing._account import Account
from hasql.testing.binaries import find_local
from testbed.middlemen.program import NONE, why_missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from _pytest.terminal import TerminalReporter

    from hasql.testing import LocalCluster
    from testbed.middlemen.addresses import Address
    from testbed.middlemen.haproxy import HAProxy
    from testbed.middlemen.pgbouncer import PgBouncer

__all__ = ("StartHAProxy", "StartPgBouncer", "haproxy", "needs", "needs_tls", "pgbouncer", "skip")


class StartPgBouncer(Protocol):
    """Starts a PgBouncer that leads to a server; other settings are given by their names."""

    def __call__(
        self,
        server: Address,
        *,
        pool_mode: Literal["session", "transaction"] = "session",
        **settings: object,
    ) -> PgBouncer: ...


class StartHAProxy(Protocol):
    """Starts an HAProxy in front of all nodes."""

    def __call__(self, *, cut: bool = True) -> HAProxy: ...


def needs(*programs: str) -> None:
    """Skip the test if these programs are missing, or fail it where nothing may be skipped."""
    if reason := why_missing(*programs):
        skip(reason)


def needs_tls() -> None:
    """Skip the test if no server can speak TLS, or fail it where nothing may be skipped."""
    needs("openssl")
    if find_local(None, Account.for_servers(), tls=True) is None:
        skip(f"{NONE} PostgreSQL that was built with TLS: apt-get install postgresql")


def skip(reason: str) -> NoReturn:
    """Skip a test because the machine lacks something, or fail it where nothing may be skipped."""
    if os.environ.get("HASQL_SKIP_NOTHING"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def pgbouncer(pg_cluster: LocalCluster) -> Iterator[StartPgBouncer]:
    """Returns a function that starts a PgBouncer in front of a server of the cluster."""
    needs("pgbouncer")
    from testbed.middlemen.pgbouncer import PgBouncer

    with ExitStack() as stack:

        def start(
            server: Address,
            *,
            pool_mode: Literal["session", "transaction"] = "session",
            **settings: object,
        ) -> PgBouncer:
            return stack.enter_context(
                PgBouncer(pg_cluster, server, pool_mode=pool_mode, **settings)
            )

        yield start


@pytest.fixture
def haproxy(pg_cluster: LocalCluster) -> Iterator[StartHAProxy]:
    """Returns a function that starts an HAProxy in front of the cluster."""
    needs("haproxy")
    from testbed.middlemen.haproxy import HAProxy

    with ExitStack() as stack:

        def start(*, cut: bool = True) -> HAProxy:
            return stack.enter_context(HAProxy(pg_cluster.nodes, cut=cut))

        yield start


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """At the end, list the tests that were skipped because programs are missing."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple) and NONE in report.longrepr[2]
    )
    if reasons:
        terminalreporter.section("skipped for want of programs")
        for reason, count in reasons.items():
            terminalreporter.write_line(f"{count}: {reason}")
