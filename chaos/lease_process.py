"""Plays a scene of leases in a process of its own, which has the scene's environment."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.lease_verdict import LeaseOutcome
from testbed.workers import TaskWorkers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hasql.testing import LocalCluster
    from testbed.kits.base import LoadKit

__all__ = ("play_in_process",)

_ROOT = Path(__file__).parents[1]


async def play_in_process(
    scenario: str,
    environment: Mapping[str, str],
    cluster: LocalCluster,
    kits: Sequence[LoadKit],
    *,
    short: bool,
) -> list[LeaseOutcome]:
    """Make `python -m chaos` play it, on a cluster of its own with the same major version."""
    version = int(await cluster.master.sql("SHOW server_version_num")) // 10_000
    arguments = [f"--fault={scenario}", f"--version={version}", f"--loop={TaskWorkers().kind}"]
    arguments += [f"--driver={kit.name}" for kit in kits]
    if short:
        arguments.append("--short")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chaos", "--json", "--together", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,  # libpq prints the servers' notices there
        cwd=_ROOT,
        env={**os.environ, **environment},
    )
    try:
        told, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    # It exits with 1 if a driver has a problem, and still prints the outcome.
    assert told, f"{scenario} was not played to its end: {said.decode()[-4000:]}"
    return [
        LeaseOutcome(**{**outcome, "problems": tuple(outcome["problems"])})
        for outcome in json.loads(told)
    ]
