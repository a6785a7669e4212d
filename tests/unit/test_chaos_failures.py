"""What chaos reports about operations that failed."""

from __future__ import annotations

import subprocess
import sys

from chaos.failures import Failure, Stopwatch, tell
from hasql import NotAvailableError

STARVED = """
import os, subprocess, sys, time
from chaos.failures import Stopwatch

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
rival = subprocess.Popen([sys.executable, "-c", "print(flush=True)\\nwhile True: pass"],
                         stdout=subprocess.PIPE)
try:
    rival.stdout.readline()
    watch = Stopwatch()
    ends = time.thread_time() + 0.2
    while time.thread_time() < ends:
        pass
    print(watch.seconds, watch.starved)
finally:
    rival.kill()
    rival.wait()
"""


def test_errors_that_are_alike_are_told_together_with_the_longest() -> None:
    def failed(error: Exception, seconds: float, starved: float) -> Failure:
        return Failure.of(error, Stopwatch())._replace(seconds=seconds, starved=starved)

    told = list(
        tell(
            [
                failed(NotAvailableError("no connection within 3.02 s; hosts:\n a"), 30.04, 27.0),
                failed(LookupError("mine"), 0.1, 0.0),
                failed(NotAvailableError("no connection within 1e-05 s; hosts:\n b"), 41.0, 40.3),
            ]
        )
    )
    of_one = "NotAvailableError: no connection in time; hosts:"
    assert told == [
        f"2 times {of_one}, the longest after 41.0 s, 40.3 s of them without a processor",
        "1 times LookupError: mine, the longest after 0.1 s, 0.0 s of them without a processor",
    ]


def test_who_shares_a_processor_is_told_for_how_long_it_had_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARVED], check=True, capture_output=True, text=True, timeout=60
    )
    seconds, starved = map(float, done.stdout.split())
    # The rest of the time is its own: it has computed for 0.2 s.
    assert 0.05 < starved < seconds - 0.15
