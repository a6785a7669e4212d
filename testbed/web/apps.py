"""The example applications, each as its command line and its paths.

A new one is a row in `WEB_APPS`. It finds the DSN of all hosts in ``DATABASE_URL``, listens on
127.0.0.1 at the port in its command, and serves:

=============================  =====================================================================
``POST`` of `WebApp.write`     a row in the table ``visits (page text)``, on the master
``GET`` of `WebApp.read`       how many there are, from a replica
``GET`` of `WebApp.ready`      200 once there is a master
=============================  =====================================================================

SIGTERM ends it in good order.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ("ROOT", "WEB_APPS", "WebApp")

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class WebApp:
    """One application under one server."""

    name: str
    #: What starts it, in the directory of the checkout; ``{port}`` stands for its port.
    command: tuple[str, ...]
    #: What is run before that, and ends: migrations, for one. Without it ``visits`` is made for it.
    prepare: tuple[str, ...] = ()
    #: ``{page}`` stands for a page that has not been visited yet.
    write: str = "/visits/{page}"
    read: str = "/visits"
    ready: str = "/health/ready"
    #: Requests at the same time, of each kind.
    writers: int = 25
    readers: int = 25


WEB_APPS = {
    app.name: app
    for app in (
        WebApp(
            "fastapi",
            (
                *(sys.executable, "-m", "uvicorn", "--app-dir", "examples", "fastapi_app:app"),
                *("--host", "127.0.0.1", "--port", "{port}", "--no-access-log"),
            ),
        ),
    )
}
