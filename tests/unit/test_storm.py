"""Plays benchmarks/storm.py: minutes of signals that mean nothing, on a clock that jumps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "storm.py"


def _play(tmp_path: Path, storm: str, *arguments: str) -> dict[str, Any]:
    saved = tmp_path / "storm.json"
    command: Sequence[str] = (sys.executable, str(_SCRIPT), "--storm", storm, *arguments)
    subprocess.run([*command, "--save", str(saved)], check=True, timeout=100)
    played: dict[str, Any] = json.loads(saved.read_text())[storm]
    return played


@pytest.mark.parametrize(
    ("storm", "concerned", "at_most"),
    [
        ("replica's leases", {"b", "c"}, 8),
        ("one replica's sessions", {"c"}, 8),
        ("idle ends", {"a", "b", "c"}, 2),
    ],
)
def test_7_signals_that_keep_coming_do_not_beat_the_cadence(
    tmp_path: Path, storm: str, concerned: set[str], at_most: float
) -> None:
    rates = _play(tmp_path, storm, "--seconds", "126", "--runs", "0")["rates"]
    for host, rate in rates.items():
        assert 0.8 < rate["long run"] <= (at_most if host in concerned else 2), host
        assert rate["worst second"] <= 10, host


@pytest.mark.parametrize("storm", ["master's leases", "idle ends"])
def test_7_a_failover_in_a_storm_is_followed_as_any(tmp_path: Path, storm: str) -> None:
    # The failover comes at a time when hints begin no burst.
    added = _play(tmp_path, storm, "--seconds", "0", "--runs", "1", "--before", "11.5")["added"]
    assert set(added) == {"kill", "freeze", "beside"}
    for fault, seconds in added.items():
        assert max(seconds) < 0.15, fault
