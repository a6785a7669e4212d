"""The example applications, each as its command line and its paths.

A new one is a row in `WEB_APPS`. It finds the DSN of all hosts in ``DATABASE_URL``, listens on
127.0.0.1 at the port in its command, and serves:

=============================  =====================================================================
``POST`` of `WebApp.write`     a row in the table ``visits (page text)``, on the master
``GET`` of `WebApp.read`       the number of rows, from a replica
``GET`` of `WebApp.ready`      200 once there is a master
=============================  =====================================================================

SIGTERM ends it in an orderly way.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

__all__ = ("ROOT", "WEB_APPS", "WebApp")

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class WebApp:
    """An application under a server."""

    name: str
    #: The command that starts it, in the directory of the checkout; ``{port}`` stands for its port.
    command: tuple[str, ...]
    #: A command that is run first and ends, for example migrations. Without one, the table
    #: ``visits`` is made for the application.
    prepare: tuple[str, ...] = ()
    #: ``{page}`` stands for a page that has not been visited yet.
    write: str = "/visits/{page}"
    read: str = "/visits"
    ready: str = "/health/ready"
    #: How many requests of each kind are made at the same time.
    writers: int = 25
    readers: int = 25


def _uvicorn(app: str) -> tuple[str, ...]:
    words = "-m uvicorn --app-dir examples {app} --host 127.0.0.1 --port {{port}} --no-access-log"
    return sys.executable, *words.format(app=app).split()


def _aiohttp(app: str) -> tuple[str, ...]:
    return sys.executable, *f"-m aiohttp.web -H 127.0.0.1 -P {{port}} {app}".split()


def _gunicorn(app: str, options: str) -> tuple[str, ...]:
    words = f"--pythonpath examples --workers 2 --bind 127.0.0.1:{{port}} {options} {app}"
    # Its control socket would be in the user's home directory, and several gunicorns run here.
    return sys.executable, "-m", "gunicorn", "--no-control-socket", *words.split()


#: No more requests than two workers have threads. A write that waits for a master occupies a
#: thread; if writes occupied all threads, no read would run that could notice the promotion.
_of_threads = partial(WebApp, writers=8, readers=8)
#: The project's directory, in which its server is started.
_DJANGO = "examples/django_project"


WEB_APPS = {
    app.name: app
    for app in (
        WebApp("fastapi", _uvicorn("fastapi_app:app")),
        WebApp("starlette", _uvicorn("starlette_app:app")),
        WebApp("aiohttp", _aiohttp("examples.aiohttp_app:make_app")),
        # With an ORM and a repository, fewer requests already keep one core busy.
        WebApp("litestar", _uvicorn("litestar_app:app"), writers=10, readers=10),
        _of_threads(
            "django",
            _gunicorn("project.wsgi", f"--threads 8 --chdir {_DJANGO}"),
            prepare=(sys.executable, f"{_DJANGO}/manage.py", "migrate", "--verbosity=0"),
        ),
        _of_threads("flask", _gunicorn("flask_app:app", "--threads 8")),
        # The application is made before the workers are forked.
        _of_threads("flask-preload", _gunicorn("flask_app:app", "--threads 8 --preload")),
        WebApp("flask-gevent", _gunicorn("flask_app:app", "--worker-class gevent")),
    )
}
