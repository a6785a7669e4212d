"""A Django project in this process: its database is a cluster, and its work runs in a thread."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import django
from django.conf import settings
from django.db import connections

from hasql.cluster.dsn import Dsn
from hasql.contrib.django.shared_managers import close_managers
from testbed.scene import until_sessions

if not settings.configured:  # only once in a process: another program may have done it
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        DATABASES={},
        DATABASE_ROUTERS=["hasql.contrib.django.ReplicaRouter"],
        SECRET_KEY="of a test",  # noqa: S106
        ALLOWED_HOSTS=["testserver"],
    )
    django.setup()

# Models can be imported only after django.setup().
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from hasql.testing import LocalCluster

__all__ = (
    "ContentType",
    "DjangoProject",
    "Group",
    "Permission",
    "databases_of",
    "django_project",
    "forget_connections",
)

_T = TypeVar("_T")


def databases_of(
    cluster: LocalCluster, name: str, options: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Return DATABASES with aliases for master and replica; `name` is the application_name."""
    dsn = Dsn.parse(str(cluster.dsn))
    common = {
        "ENGINE": "hasql.contrib.django",
        "HOST": ",".join(host.host for host in dsn.hosts),
        "PORT": ",".join(str(host.port) for host in dsn.hosts),
        "NAME": dsn.dbname,
        "USER": dsn.user,
        "PASSWORD": dsn.password,
    }
    hasql = {"acquire_timeout": 15, **(options or {})}
    return {
        "default": {**common, "OPTIONS": {"application_name": name, "hasql": hasql}},
        "replica": {
            **common,
            "OPTIONS": {"application_name": name, "hasql": {**hasql, "role": "replica"}},
        },
    }


class DjangoProject:
    """A project that a test configures and runs code in."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self.cluster = cluster
        #: The application_name of its sessions.
        self.name = name
        self.databases = databases_of(cluster, name)
        self._threads = [ThreadPoolExecutor(1, "django")]

    def configure(self) -> None:
        """Make Django use `databases`, as they are now; connections of this thread are closed."""
        forget_connections()
        settings.DATABASES = self.databases
        # Django's handler evaluates its settings only once, so do it again here.
        connections.settings = connections.configure_settings(self.databases)

    async def run(self, work: Callable[..., _T], *args: Any, thread: int = 0) -> _T:
        """Run some work in the project's thread, or in another thread, chosen by its number."""
        while len(self._threads) <= thread:
            self._threads.append(ThreadPoolExecutor(1, "django"))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads[thread], work, *args)

    async def end_thread(self, thread: int) -> None:
        """End a thread without closing its connections first."""
        await asyncio.to_thread(self._threads.pop(thread).shutdown)
        await asyncio.to_thread(gc.collect)

    async def close(self) -> None:
        """Close everything, and wait until no session is left on the servers."""
        try:
            for thread in range(len(self._threads)):
                await self.run(forget_connections, thread=thread)
            for each in self._threads:
                each.shutdown()
        finally:
            await asyncio.to_thread(close_managers, lambda _: True)
        for node in self.cluster.nodes:
            if node.running:
                await until_sessions(node, self.name, 0)


def forget_connections() -> None:
    """Close the connections of this thread, so that it reads its settings again."""
    for wrapper in connections.all(initialized_only=True):
        wrapper.close()
        del connections[wrapper.alias]


@asynccontextmanager
async def django_project(cluster: LocalCluster) -> AsyncIterator[DjangoProject]:
    """Provide a project within a block. A process can have only one at a time."""
    project = DjangoProject(cluster, f"django_{uuid4().hex}")
    project.configure()
    try:
        yield project
    finally:
        await project.close()
