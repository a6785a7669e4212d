"""The commands ``flask hasql status`` and ``flask hasql check``."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from flask import current_app
from flask.cli import AppGroup

from hasql.cluster.state import Health
from hasql.errors import ConfigurationError, NotAvailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hasql.contrib.flask.clusters import AppClusters
    from hasql.metrics import NodeMetrics
    from hasql.sync.base import BaseSyncPoolManager

__all__ = ("commands",)

_HEAD = ("cluster", "host", "role", "health", "lag", "answers in", "connections")

commands = AppGroup("hasql", help="The PostgreSQL clusters of this application.")

_of_one = click.option("--cluster", metavar="NAME", help="One cluster; all, if not given.")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds to wait.",
)


@commands.command()
@_of_one
@_timeout
def status(cluster: str | None, timeout: float) -> None:
    """Show every host with its role, its health and its lag.

    The connections are those of this process: the number in use, and the most it may have.
    """
    rows: list[tuple[str, ...]] = [_HEAD]
    errors = []
    for name, manager in _chosen(cluster):
        with suppress(NotAvailableError):  # if it takes too long, show what is known by now
            manager.wait_next_pool_check(timeout)
        for node in manager.metrics().nodes:
            rows.append((name, *_row(node)))
            if node.health is not Health.UP and node.last_error is not None:
                errors.append(f"{name}: {node.host}: {node.last_error}")
    for line in [*_lay_out(rows), *errors]:
        click.echo(line)


@commands.command()
@_of_one
@_timeout
@click.option(
    "--replicas",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How many replicas each cluster must have.",
)
def check(cluster: str | None, timeout: float, replicas: int) -> None:
    """Exit with 0 if each cluster has a master, else with 1."""
    failed = False
    for name, manager in _chosen(cluster):
        try:
            manager.ready(1, replicas, timeout)
        except Exception as error:  # noqa: BLE001  # e.g. the driver's, if a login is refused
            failed = True
            click.echo(f"{name}: {manager.dsn.hide(str(error))}", err=True)
        else:
            masters, others = manager.master_pool_count, manager.replica_pool_count
            click.echo(f"{name}: ok, masters: {masters}, replicas: {others}")
    if failed:
        raise click.exceptions.Exit(1)


def _chosen(name: str | None) -> Iterator[tuple[str, BaseSyncPoolManager[Any, Any]]]:
    clusters: AppClusters = current_app.extensions["hasql"]
    try:
        chosen = clusters.by_name if name is None else {name: clusters.of(name)}
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--cluster") from None
    for each, cluster in chosen.items():
        yield each, cluster.manager


def _row(node: NodeMetrics) -> tuple[str, ...]:
    health = node.health.name.lower()
    if node.exclusion is not None:
        health += f", {node.exclusion.name.lower().replace('_', ' ')}"
    lag = "" if node.lag_bytes is None else f"{node.lag_bytes:,} B"
    if node.lag_seconds is not None:
        lag = ", ".join(filter(None, [f"{node.lag_seconds:.1f} s", lag]))
    answers = "" if node.response_time is None else f"{node.response_time * 1000:.1f} ms"
    return (
        *(str(node.host), node.role.name.lower(), health, lag, answers),
        f"{node.pool_used} of {node.pool_max}",
    )


def _lay_out(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
