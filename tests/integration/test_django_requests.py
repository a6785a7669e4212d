"""hasql.contrib.django under Django's own handlers: read_your_writes, and views of both kinds."""

from __future__ import annotations

import asyncio
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.signals import request_finished
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from hasql.contrib.django import read_your_writes
from hasql.contrib.django.middleware import COOKIE
from testbed.django_project import DjangoProject, Group, django_project
from testbed.scene import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from hasql.testing import LocalCluster

pytestmark = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
)


def write(_: HttpRequest) -> HttpResponse:
    Group.objects.create(name="of a user")
    return HttpResponse(Group.objects.all().db)


def read(_: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{Group.objects.all().db} {Group.objects.count()}")


def fail(_: HttpRequest) -> HttpResponse:
    Group.objects.create(name="before it failed")
    raise ZeroDivisionError


def undo(_: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Group.objects.select_for_update().first()
    return HttpResponse(Group.objects.all().db)


def stream(_: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield Group.objects.all().db

    return StreamingHttpResponse(parts())


async def write_async(_: HttpRequest) -> HttpResponse:
    await Group.objects.acreate(name="of a user")
    return HttpResponse(Group.objects.all().db)


async def read_async(_: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{Group.objects.all().db} {await Group.objects.acount()}")


async def write_elsewhere(_: HttpRequest) -> HttpResponse:
    """Write in a thread that is not the request's, and so has its own connection."""

    def work() -> None:
        Group.objects.create(name="of a user")
        connections.close_all()

    await sync_to_async(work, thread_sensitive=False)()
    return HttpResponse(Group.objects.all().db)


urlpatterns = (
    path("write", write),
    path("read", read),
    path("fail", fail),
    path("undo", undo),
    path("stream", stream),
    path("write_async", write_async),
    path("read_async", read_async),
    path("write_elsewhere", write_elsewhere),
)
SETTINGS: dict[str, Any] = {
    "ROOT_URLCONF": urlpatterns,
    "MIDDLEWARE": ["hasql.contrib.django.read_your_writes"],
}


@pytest.fixture
async def project(pg_cluster: LocalCluster) -> AsyncIterator[DjangoProject]:
    async with django_project(pg_cluster) as project:
        await project.run(prepare)
        with override_settings(**SETTINGS):
            yield project


def prepare() -> None:
    call_command("migrate", verbosity=0)
    Group.objects.all().delete()
    request_finished.send(sender=None)


def get(client: Client, where: str) -> str:
    response = client.get(f"/{where}")
    content = b"".join(response) if response.streaming else response.content
    return content.decode()


async def test_after_a_write_a_user_reads_from_the_master(project: DjangoProject) -> None:
    def work() -> None:
        user, other = Client(), Client()
        assert get(user, "read").startswith("replica")
        assert get(user, "write") == "default"
        assert get(user, "read") == "default 1"
        assert get(user, "stream") == "default"
        assert get(other, "read").startswith("replica")
        assert get(other, "stream") == "replica"
        user.cookies.clear()
        assert get(user, "read").startswith("replica")

    await project.run(work)


async def test_only_a_write_sets_the_cookie(project: DjangoProject) -> None:
    def work() -> None:
        user = Client(raise_request_exception=False)
        assert COOKIE not in user.get("/read").cookies
        assert get(user, "undo") == "replica"
        assert COOKIE not in user.cookies
        response = user.get("/fail")
        assert response.status_code == 500
        cookie = response.cookies[COOKIE]
        assert (cookie["max-age"], cookie["httponly"], cookie["samesite"]) == (5, True, "Lax")
        assert response.headers["Vary"] == "Cookie"
        assert get(user, "read") == "default 1"

    await project.run(work)


async def test_a_cookie_that_is_not_ours_pins_nothing(project: DjangoProject) -> None:
    def work() -> None:
        user = Client()
        user.cookies = SimpleCookie({COOKIE: "default"})
        assert get(user, "read").startswith("replica")
        forged = signing.TimestampSigner(key="of another", salt=COOKIE).sign("default")
        user.cookies = SimpleCookie({COOKIE: forged})
        assert get(user, "read").startswith("replica")

    await project.run(work)


async def test_a_pin_ends(project: DjangoProject) -> None:
    def pinned(user: Client) -> bool:
        return get(user, "read").startswith("default")

    user = Client()
    with override_settings(HASQL_PIN_SECONDS=1):
        assert await project.run(get, user, "write") == "default"
        assert await project.run(pinned, user)
        cookie = user.cookies[COOKIE].value
        async with asyncio.timeout(10):
            while await project.run(pinned, user):
                user.cookies[COOKIE] = cookie  # a client that keeps the cookie too long


@pytest.mark.parametrize("seconds", ["5", True, -1, float("inf"), None])
async def test_a_time_to_pin_that_is_none_is_refused(seconds: object) -> None:
    with (
        override_settings(HASQL_PIN_SECONDS=seconds),
        pytest.raises(ImproperlyConfigured, match="HASQL_PIN_SECONDS must be a number of seconds"),
    ):
        read_your_writes(lambda _: HttpResponse())


async def test_no_time_to_pin_is_no_pin(project: DjangoProject) -> None:
    def work() -> None:
        user = Client()
        with override_settings(HASQL_PIN_SECONDS=0):
            assert get(user, "write") == "default"
            assert not user.cookies
            assert get(user, "read").startswith("replica")

    await project.run(work)


async def body(client: AsyncClient, where: str) -> str:
    response: HttpResponseBase = await client.get(f"/{where}")
    assert isinstance(response, HttpResponse)
    return response.content.decode()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("write", ["write", "write_async", "write_elsewhere"])
async def test_views_of_both_kinds_under_asgi(write: str) -> None:
    user, other = AsyncClient(), AsyncClient()
    try:
        assert (await body(user, "read_async")).startswith("replica")
        assert await body(user, write) == "default"
        assert await body(user, "read_async") == "default 1"
        assert await body(user, "read") == "default 1"
        assert (await body(other, "read_async")).startswith("replica")
    finally:
        await sync_to_async(connections.close_all)()


async def test_a_persistent_connection_of_an_asgi_request_comes_back(
    project: DjangoProject,
) -> None:
    """The thread of such a request ends with the request, and closes nothing."""
    from asgiref.sync import ThreadSensitiveContext

    from hasql.contrib.django.shared_managers import all_managers

    for settings_dict in project.databases.values():
        settings_dict["CONN_MAX_AGE"] = None
    await project.run(project.configure)
    async with ThreadSensitiveContext():
        assert await Group.objects.acount() == 0
    import gc

    def given_back() -> bool:
        gc.collect()
        (shared,) = all_managers()
        return sum(node.in_flight for node in shared.pool.metrics().nodes) == 0

    await until(given_back)
