"""Ports on loopback that nothing listens on."""

import os
import random
import re
import socket
import sys

from hasql.testing.errors import ClusterError

__all__ = ("free_ports",)

# These ports are below the range that systems use for outgoing connections: a server that is down
# for a while must find its port free when it comes back.
_FIRST, _LAST = 15000, 32000
# Each worker of pytest-xdist has its own share of the ports. Otherwise one worker could take the
# port of another's server while that is down, because the port looks free.
_SHARES = 16


def free_ports(count: int) -> list[int]:
    """Return distinct ports that are free now; another process may still take one before its use.

    :raises ClusterError: if there are not that many free ports
    """
    share = range(_FIRST + _worker() % _SHARES, _LAST, _SHARES)
    candidates = random.SystemRandom().sample(share, k=len(share))
    ports: list[int] = []
    for port in candidates:
        if len(ports) == count:
            return ports
        if _is_free(port):
            ports.append(port)
    raise ClusterError(f"no {count} free ports between {_FIRST} and {_LAST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform == "linux":
            # A server sets this, too: leftover connections of the port's last user do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _worker() -> int:
    """Return the number of this pytest-xdist worker, from 1 on; 0 outside of a worker.

    https://pytest-xdist.readthedocs.io/en/stable/how-to.html
    """
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    return int(worker[1]) + 1 if worker else 0
