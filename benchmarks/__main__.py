"""Runs all benchmarks, or one of them with arguments of its own; `make bench` runs this.

    python benchmarks [--peer PYTHON] [NAME [ARGUMENT …]]

The results are kept in .benchmarks/ in the checkout; `publish` makes tables and plots of them.
"""

import argparse
import subprocess
import sys
from pathlib import Path

__all__ = ("main",)

_HERE = Path(__file__).parent
_RESULTS = _HERE.parent / ".benchmarks"
_WITH_PEER = ("acquire", "failover")
_SAVED = (*_WITH_PEER, "names", "scale", "herd", "storm", "threads", "load_control", "runs")
_ALL = (
    *_SAVED,
    "idle",
    "dns_engine",
    "routing_sessions",
    "dependency",
    "session_settings",
    "publish",
)


def main() -> None:
    """Run the requested benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peer", metavar="PYTHON", help="that of the published hasql")
    parser.add_argument("name", nargs="?", choices=_ALL, help="default: all, one after the other")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    for name in [options.name] if options.name else _ALL:
        command = [sys.executable, str(_HERE / f"{name}.py")]
        if name in _WITH_PEER and options.peer:
            command += ["--peer", options.peer]
        if name in _SAVED:
            command += ["--save", str(_RESULTS / f"{name}.json")]
        print(f"\n=== {name}: {(' '.join(options.arguments))}", flush=True)
        subprocess.run(command + options.arguments, check=True)


if __name__ == "__main__":
    main()
