"""structlog finds the fields of hasql's log records by its own means."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import structlog

from hasql import HostSpec, Role
from hasql.diagnostics import about, correlated

if TYPE_CHECKING:
    import pytest


def test_structlog_finds_what_records_bear(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hasql")
    extra = about("host_up", host=HostSpec("db1", 5432), role=Role.MASTER)
    with correlated("req-1"):
        logging.getLogger("hasql").info("db1 is up", extra=extra)
        logging.getLogger("hasql").info("no extra")
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processor=structlog.processors.JSONRenderer(),
    )
    up, plain = (json.loads(formatter.format(record)) for record in caplog.records)
    assert up["event"] == "host_up"
    assert plain["event"] == "no extra"
    assert {name: up[name] for name in ("host", "role", "health", "correlation_id")} == {
        "host": "db1:5432",
        "role": "master",
        "health": None,
        "correlation_id": "req-1",
    }
