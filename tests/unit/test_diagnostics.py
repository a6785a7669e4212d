"""Diagnostics: the attributes that log records, events and leases carry."""

from __future__ import annotations

import ast
import asyncio
import logging
from contextlib import AsyncExitStack
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import hasql
from hasql.cluster.state import Health
from hasql.diagnostics import about, correlated, correlation_id
from testbed.fake_driver import fake_cluster, manager_of, until

PACKAGE = Path(hasql.__file__).parent
#: The methods of a logger that write a record.
LEVELS = {"debug", "info", "warning", "error", "exception", "log"}
ATTRIBUTES = ("host", "role", "health", "correlation_id", "event")


def calls_of_the_log() -> list[tuple[str, ast.Call]]:
    """Return each logging call in the package, with its file and line."""
    found: list[tuple[str, ast.Call]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text("utf-8")
        if 'log = logging.getLogger("hasql")' not in text:
            continue
        found.extend(
            (f"{path.relative_to(PACKAGE)}:{node.lineno}", node)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "log"
        )
    return found


def test_each_record_says_what_has_happened() -> None:
    calls = calls_of_the_log()
    assert len(calls) > 30
    silent = [where for where, call in calls if "extra" not in {x.arg for x in call.keywords}]
    assert silent == []


def test_each_record_has_all_attributes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hasql")
    formatter = logging.Formatter(" ".join(f"%({name})s" for name in ATTRIBUTES))
    with correlated("req-1"):
        logging.getLogger("hasql").info("said %s", "plainly")
        logging.getLogger("hasql").info("said", extra=about("host_up"))
    logging.getLogger("hasql").info("said", extra=about("lease_overdue", correlation_id="req-2"))
    assert [formatter.format(record) for record in caplog.records] == [
        "None None None req-1 said plainly",  # structlog uses `event` for the message
        "None None None req-1 host_up",
        "None None None req-2 lease_overdue",
    ]


def test_a_correlation_ends_with_its_block() -> None:
    with correlated("outer"):
        with correlated("inner"):
            assert correlation_id.get() == "inner"
        assert correlation_id.get() == "outer"
        with pytest.raises(KeyError), correlated("inner"):
            raise KeyError("mine")
        assert correlation_id.get() == "outer"
    assert correlation_id.get() is None


@pytest.mark.parametrize("wrong", [None, 7, b"req"])
def test_a_correlation_is_a_str(wrong: Any) -> None:
    with pytest.raises(TypeError, match="correlated takes a str"), correlated(wrong):
        pass


def test_tasks_inherit_it_and_threads_do_not() -> None:
    async def ask() -> str | None:
        return correlation_id.get()

    async def main() -> str | None:
        with correlated("req-1"):
            return await asyncio.create_task(ask())

    assert asyncio.run(main()) == "req-1"
    heard: list[str | None] = []
    with correlated("req-1"):
        context = copy_context()
        threads = [
            Thread(target=lambda: heard.append(correlation_id.get())),
            Thread(target=context.run, args=(lambda: heard.append(correlation_id.get()),)),
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert heard == [None, "req-1"]


async def test_what_a_manager_does_by_itself_is_none_of_the_first_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hasql")
    servers = fake_cluster("a master", "b replica")
    manager = manager_of(servers)
    async with AsyncExitStack() as stack:
        with correlated("the first"):  # starts the manager
            async with manager.acquire_master():
                pass
        stack.push_async_callback(manager.close)
        await manager.ready(1, 1)
        servers["b"].kill()
        await until(lambda: manager.metrics().nodes[1].health is Health.DOWN)
        servers["b"].restart()
        await until(lambda: manager.metrics().nodes[1].health is Health.UP)
    records = [vars(record) for record in caplog.records]
    told = {(each["event"], each["correlation_id"]) for each in records}
    assert told >= {("host_down", None), ("host_up", None)}
    assert {each for _, each in told} == {None}
