"""hasql.contrib.django on real servers: the backend and the router."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.signals import request_finished, request_started
from django.db import DataError, OperationalError, connections, transaction
from django.db.utils import InterfaceError, ProgrammingError
from django.test import override_settings
from django.test.utils import setup_databases, teardown_databases
from psycopg import ClientCursor, Cursor, IsolationLevel, ServerCursor
from psycopg.rows import dict_row

from hasql.contrib.django import ReplicaRouter
from hasql.contrib.django.base import DatabaseWrapper
from hasql.contrib.django.lent_connection import AbandonedConnections
from testbed.django_project import (
    ContentType,
    DjangoProject,
    Group,
    Permission,
    django_project,
    forget_connections,
)
from testbed.scene import end_sessions, fail_over, until
from tests.unit.test_driver_threads import no_more_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from django.db.models import Model

    from hasql.sync.psycopg3 import PoolManager
    from hasql.testing import LocalCluster

pytestmark = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def project(pg_cluster: LocalCluster) -> AsyncIterator[DjangoProject]:
    """A project whose tables exist and are empty."""
    async with django_project(pg_cluster) as project:
        await project.run(make_tables)
        yield project


def make_tables() -> None:
    call_command("migrate", verbosity=0)
    Group.objects.all().delete()
    new_request()


def new_request() -> None:
    """End the request that is under way in this thread, and begin the next."""
    request_finished.send(sender=None)
    request_started.send(sender=None)


def db_of(instance: Model) -> str | None:
    return instance._state.db  # noqa: SLF001  # documented


def put_in(instance: Model, alias: str) -> None:
    instance._state.db = alias  # noqa: SLF001  # as above


def ask(alias: str, sql: str) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


def backend_pid(alias: str = "default") -> int:
    pid = ask(alias, "SELECT pg_backend_pid()")
    assert isinstance(pid, int)
    return pid


def is_replica(alias: str) -> bool:
    return bool(ask(alias, "SELECT pg_is_in_recovery()"))


def manager(alias: str = "default") -> PoolManager:
    wrapper = connections[alias]
    assert isinstance(wrapper, DatabaseWrapper)
    return wrapper.manager


def leases() -> int:
    return sum(node.in_flight for node in manager().metrics().nodes)


# Where statements go


async def test_what_a_thread_has_abandoned_comes_back_though_there_was_no_thread_for_it() -> None:
    given_back = threading.Event()
    abandoned = AbandonedConnections()
    with no_more_threads():
        abandoned.watch()
    abandoned.watch()
    lent: Any = SimpleNamespace(give_back=given_back.set)
    abandoned.add(lent)
    assert await asyncio.to_thread(given_back.wait, 10)


async def test_reads_go_to_a_replica_and_writes_to_the_master(project: DjangoProject) -> None:
    def work() -> None:
        assert Group.objects.all().db == "replica"
        assert is_replica("replica")
        assert db_of(Group.objects.create(name="a")) == "default"
        assert not is_replica("default")
        assert manager("default") is manager("replica")

    await project.run(work)


async def test_after_a_write_reads_of_the_same_request_go_to_the_master(
    project: DjangoProject,
) -> None:
    def work() -> None:
        Group.objects.create(name="a")
        assert Group.objects.all().db == "default"
        assert Group.objects.get().name == "a"
        new_request()
        assert Group.objects.all().db == "replica"
        # This goes through neither a model nor the router.
        ask("default", "/* of hand */ UPDATE auth_group SET name = 'b'")
        assert Group.objects.all().db == "default"
        new_request()
        ask("default", "SELECT 1")
        assert Group.objects.all().db == "replica"

    await project.run(work)


async def test_a_write_behind_another_statement_is_noticed(project: DjangoProject) -> None:
    def work() -> None:
        assert ask("default", "SET LOCAL statement_timeout = 1000; SELECT 1") is None
        assert Group.objects.all().db == "replica"
        ask("default", "SET LOCAL statement_timeout = 1000; INSERT INTO auth_group VALUES (1, 'a')")
        assert Group.objects.all().db == "default"
        assert Group.objects.get().name == "a"
        new_request()
        ask("default", "SELECT * INTO TEMP t FROM auth_group")
        assert Group.objects.all().db == "default"

    await project.run(work)


@pytest.mark.parametrize("how", ["copy", "stream", "callproc", "executemany", "debug"])
async def test_each_way_to_write_is_noticed(project: DjangoProject, how: str) -> None:
    def work() -> None:
        connections["default"].force_debug_cursor = how == "debug"
        with connections["default"].cursor() as cursor:
            if how == "callproc":
                cursor.callproc("txid_current")
            elif how == "executemany":
                cursor.executemany("INSERT INTO auth_group (name) VALUES (%s)", [["x"], ["y"]])
            elif how == "stream":
                insert = "INSERT INTO auth_group (name) VALUES (%s) RETURNING name"
                assert list(cursor.stream(insert, ["x"])) == [("x",)]
            else:
                with cursor.copy("COPY auth_group (name) FROM STDIN") as copy:
                    copy.write("x\n")
        assert Group.objects.all().db == "default"

    await project.run(work)


async def test_outside_of_a_request_a_task_ends_with_close_old_connections(
    project: DjangoProject,
) -> None:
    def work() -> None:
        request_finished.send(sender=None)
        Group.objects.create(name="a")
        assert Group.objects.all().db == "default"
        connections["default"].close_if_unusable_or_obsolete()
        assert Group.objects.all().db == "replica"

    await project.run(work)


async def test_within_a_transaction_of_the_master_reads_go_there(project: DjangoProject) -> None:
    def work() -> None:
        with transaction.atomic():
            assert Group.objects.all().db == "default"
        assert Group.objects.all().db == "replica"
        connections["default"].ensure_connection()
        transaction.set_autocommit(False)
        assert Group.objects.all().db == "default"
        transaction.set_autocommit(True)
        assert Group.objects.all().db == "replica"

    await project.run(work)


async def test_a_transaction_is_one_also_where_autocommit_is_off_by_default(
    project: DjangoProject,
) -> None:
    project.databases["default"]["AUTOCOMMIT"] = False

    def work() -> None:
        connections["default"].ensure_connection()
        assert Group.objects.all().db == "replica"
        with transaction.atomic():
            assert Group.objects.all().db == "default"

    await project.run(project.configure)
    await project.run(work)


async def test_what_was_read_from_a_replica_is_written_to_its_master(
    project: DjangoProject,
) -> None:
    def work() -> tuple[int, str]:
        group = Group.objects.create(name="a")
        type_ = ContentType.objects.get_for_model(Group)
        written = Permission.objects.create(codename="c", name="c", content_type=type_)
        return group.pk, str(written.pk)

    def change(key: int, written: str) -> None:
        new_request()
        group, permission = Group.objects.get(pk=key), Permission.objects.get(pk=written)
        assert db_of(group) == db_of(permission) == "replica"
        group.permissions.add(permission)
        assert [each.pk for each in group.permissions.all()] == [permission.pk]
        group.name = "b"
        group.save()
        assert db_of(group) == "default"
        permission.refresh_from_db()
        assert db_of(permission) == "default"
        permission.delete()

    key, written = await project.run(work)
    await caught_up(project)
    await project.run(change, key, written)


async def caught_up(project: DjangoProject) -> None:
    """Wait until the replicas have replayed all WAL of the master."""
    master = project.cluster.master
    lsn = await master.sql("SELECT pg_current_wal_lsn()")
    for replica in project.cluster.replicas:
        while await replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") != "t":
            pass


async def test_reads_go_to_the_master_while_there_is_no_replica(project: DjangoProject) -> None:
    for replica in project.cluster.replicas:
        replica.kill()

    def work() -> None:
        assert Group.objects.all().db == "default"
        assert Group.objects.count() == 0

    await project.run(lambda: manager().ready(1, 0))
    await until(lambda: not project_replicas())
    await project.run(work)


@pytest.mark.parametrize(
    ("options", "routers", "falls_back"),
    [
        ({}, ["hasql.contrib.django.ReplicaRouter"], True),
        ({"fallback_master": False}, ["hasql.contrib.django.ReplicaRouter"], False),
        ({}, [], False),
    ],
    ids=["of the router", "told not to", "without a router"],
)
async def test_a_read_that_was_sent_to_a_lost_replica_goes_to_the_master(
    project: DjangoProject, options: dict[str, Any], routers: list[str], falls_back: bool
) -> None:
    replica = project.databases["replica"]["OPTIONS"]["hasql"]
    replica.update(options, acquire_timeout=15 if falls_back else 0.3)

    def read() -> None:
        project.configure()
        with override_settings(DATABASE_ROUTERS=routers):
            assert is_replica("replica")
            new_request()
            for each in project.cluster.replicas:
                each.kill()
            try:
                is_replica("replica")  # it may be sent before the loss is noticed
            except OperationalError as error:
                # There may also be no error.
                assert not falls_back or "no connection" not in str(error)  # noqa: PT017
            new_request()
            if falls_back:
                assert not is_replica("replica")
            else:
                with pytest.raises(OperationalError, match="no connection to a replica within"):
                    is_replica("replica")

    await project.run(read)


def project_replicas() -> int:
    from hasql.contrib.django import shared_managers

    return sum(each.pool.replica_pool_count for each in shared_managers.all_managers())


async def test_the_first_read_of_a_process_finds_the_replica(pg_cluster: LocalCluster) -> None:
    async with django_project(pg_cluster) as project:
        assert await project.run(lambda: Group.objects.all().db) == "replica"


async def test_no_host_in_time_is_djangos_error(project: DjangoProject) -> None:
    def work() -> None:
        with pytest.raises(OperationalError, match="no connection to a master within") as caught:
            Group.objects.create(name="a")
        assert project.databases["default"]["PASSWORD"] not in str(caught.value)
        assert str(project.cluster.nodes[0].port) in str(caught.value)

    project.databases["default"]["OPTIONS"]["hasql"]["acquire_timeout"] = 0.3
    await project.run(new_request)
    project.cluster.master.kill()
    await until(lambda: manager_in_use().master_pool_count == 0)
    await project.run(work)


# Migrations, relations, pairs of other names


async def test_the_router_migrates_masters_alone() -> None:
    with override_settings(HASQL_REPLICAS={"default": ["replica"]}):
        chosen = ReplicaRouter()
    assert chosen.allow_migrate("replica", "auth") is False
    assert chosen.allow_migrate("default", "auth") is None
    assert chosen.allow_migrate("another", "auth") is None


class OfGroups:
    """A router of the application's own, which keeps one model elsewhere."""

    def db_for_write(self, model: object, **_: object) -> str | None:
        return "reports" if model is Group else None


async def test_pairs_have_any_names_and_other_routers_their_say(project: DjangoProject) -> None:
    project.databases["reports"] = dict(project.databases["default"])
    project.databases["reports_replica"] = dict(project.databases["replica"])
    project.configure()
    pairs = {"default": ["replica"], "reports": ["reports_replica"]}
    routers = ["hasql.contrib.django.ReplicaRouter", OfGroups()]

    def work() -> None:
        with override_settings(HASQL_REPLICAS=pairs, DATABASE_ROUTERS=routers):
            assert Permission.objects.all().db == "replica"
            assert Group.objects.all().db == "reports_replica"
            group = Group.objects.create(name="a")
            assert db_of(group) == "reports"
            assert group.permissions.all().db == "reports"
            assert Permission.objects.all().db == "replica"
            of_another = Permission(name="x")
            put_in(of_another, "default")
            assert ReplicaRouter().allow_relation(group, of_another) is None
            put_in(group, "reports_replica")
            assert ReplicaRouter().allow_relation(group, Group.objects.get()) is True

    await project.run(work)


@pytest.mark.parametrize(
    ("replicas", "complaint"),
    [
        ("replica", "must be a dictionary of lists"),
        ({"default": "replica"}, "must be a dictionary of lists"),
        ({"default": []}, "must be a dictionary of lists"),
        ({"default": ["nowhere"]}, "DATABASES has no alias 'nowhere'"),
        ({"nowhere": ["replica"]}, "DATABASES has no alias 'nowhere'"),
        ({"default": ["default"]}, "names 'default' more than once"),
    ],
)
async def test_a_router_that_can_not_work_says_why(
    project: DjangoProject, replicas: object, complaint: str
) -> None:
    def work() -> None:
        with (
            override_settings(HASQL_REPLICAS=replicas),
            pytest.raises(ImproperlyConfigured, match=complaint),
        ):
            ReplicaRouter()

    await project.run(work)


# What each lease has


async def test_aliases_that_share_connections_have_each_what_they_want(
    project: DjangoProject,
) -> None:
    master = project.cluster.master
    await master.sql(
        "DROP ROLE IF EXISTS django_role; CREATE ROLE django_role; GRANT django_role TO app"
    )
    default = project.databases["default"]
    other = {
        **default,
        "TIME_ZONE": "Asia/Tokyo",
        "OPTIONS": {
            **default["OPTIONS"],
            "assume_role": "django_role",
            "isolation_level": IsolationLevel.SERIALIZABLE,
            "server_side_binding": True,
        },
    }
    project.databases["other"] = other
    project.configure()

    def seen(alias: str) -> tuple[object, ...]:
        with connections[alias].cursor() as cursor, transaction.atomic(alias):
            cursor.execute(
                "SELECT current_setting('TimeZone'), current_user, pg_backend_pid(),"
                " current_setting('transaction_isolation')"
            )
            zone, user, pid, level = cursor.fetchone()
            client = isinstance(cursor.cursor, ClientCursor)
            assert isinstance(cursor.cursor, Cursor)
        connections[alias].close()
        return pid, (zone, user, level, client)

    def work() -> None:
        assert manager("other") is manager("default")
        pid, first = seen("default")
        assert first == ("UTC", "app", "read committed", True)
        for _ in range(2):
            assert seen("other") == (pid, ("Asia/Tokyo", "django_role", "serializable", False))
            assert seen("default") == (pid, first)

    await project.run(work)


async def test_a_closed_connection_leaves_nothing_of_its_session(project: DjangoProject) -> None:
    def dirty() -> int:
        for statement in (
            "SET search_path TO pg_catalog",
            "SET statement_timeout TO '7s'",
            "CREATE TEMP TABLE of_a_request (i int)",
            "SELECT pg_advisory_lock(4711)",
            "LISTEN somewhere",
        ):
            ask("default", statement)
        pid = backend_pid()
        connections["default"].close()
        assert leases() == 0
        return pid

    def clean(pid: int) -> None:
        assert backend_pid() == pid
        assert ask("default", "SHOW search_path") == '"$user", public'
        assert ask("default", "SHOW statement_timeout") == "0"
        assert ask("default", "SELECT to_regclass('of_a_request')") is None
        assert ask("default", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
        assert ask("default", "SELECT count(*) FROM pg_listening_channels()") == 0

    await project.run(clean, await project.run(dirty))


async def test_what_is_said_on_a_connection_is_not_told_who_has_closed_it(
    project: DjangoProject,
) -> None:
    told: list[Any] = []

    def leave() -> int:
        with connections["default"].cursor() as cursor:
            cursor.execute("LISTEN news; NOTIFY news, 'of a request that is over'")
            cursor.execute("SELECT 1")
        raw = connections["default"].connection
        assert raw is not None
        raw.add_notice_handler(told.append)
        pid = backend_pid()
        connections["default"].close()
        return pid

    def look(pid: int) -> None:
        assert backend_pid() == pid
        raw = connections["default"].connection
        assert raw is not None
        assert [each.payload for each in raw.notifies(timeout=0.1)] == []
        raw.add_notify_handler(told.append)
        ask("default", "DO $$ BEGIN RAISE WARNING 'warned'; END $$")
        connections["default"].close()

    def listen(pid: int) -> None:
        assert backend_pid() == pid
        ask("default", "LISTEN news; NOTIFY news")
        assert told == []
        connections["default"].close()

    pid = await project.run(leave)
    await project.run(look, pid)
    await project.run(listen, pid)


async def test_a_connection_that_was_closed_has_the_attributes_of_a_new_one(
    project: DjangoProject,
) -> None:
    def work() -> None:
        found = []
        for _ in range(2):
            pid = backend_pid()
            raw = connections["default"].connection
            assert raw is not None
            found.append((pid, raw.server_cursor_factory, raw.prepared_max, raw.row_factory))
            raw.server_cursor_factory = type("OfARequest", (ServerCursor,), {})
            raw.prepared_max = 7
            raw.row_factory = dict_row
            connections["default"].close()
        assert found[0] == found[1]

    await project.run(work)


async def test_handlers_that_configure_has_added_stay(project: DjangoProject) -> None:
    told: list[str | None] = []

    def configure(connection: Any) -> None:
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary))

    def work() -> None:
        for _ in range(2):
            ask("default", "DO $$ BEGIN RAISE WARNING 'warned'; END $$")
            connections["default"].close()
        assert told == ["warned", "warned"]

    options = {"min_size": 0, "max_size": 1, "configure": configure}
    for database in project.databases.values():
        database["OPTIONS"]["hasql"]["pool_factory_kwargs"] = options
    await project.run(project.configure)
    await project.run(work)


async def test_a_cursor_does_not_outlive_its_lease(project: DjangoProject) -> None:
    def work() -> None:
        cursor = connections["default"].cursor()
        connections["default"].close()
        with pytest.raises(InterfaceError, match="cursor is closed"):
            cursor.execute("SELECT 1")

    await project.run(work)


async def test_connecting_once_more_gives_the_former_connection_back(
    project: DjangoProject,
) -> None:
    def work() -> None:
        connection = connections["default"]
        with transaction.atomic():
            Group.objects.create(name="lost")
            former = connection.cursor()
            connection.connect()
        assert leases() == 1
        with pytest.raises(InterfaceError, match="cursor is closed"):
            former.execute("SELECT 1")
        assert Group.objects.using("default").count() == 0
        connection.connection = None  # some applications do this to get a new connection
        assert Group.objects.using("default").count() == 0
        assert leases() == 1
        connection.close()
        assert leases() == 0

    await project.run(work)


async def test_an_iterator_that_is_left_disturbs_nobody(project: DjangoProject) -> None:
    def work() -> None:
        Group.objects.bulk_create(Group(name=str(number)) for number in range(5))
        left: Any = Group.objects.using("default").iterator(chunk_size=1)
        next(left)
        connections["default"].close()
        with transaction.atomic():
            count = Group.objects.count()
            left.close()  # as the garbage collector may at any time
            assert Group.objects.count() == count

    await project.run(work)


async def test_server_side_cursors_read_chunk_by_chunk(project: DjangoProject) -> None:
    def work() -> None:
        Group.objects.bulk_create(Group(name=str(number)) for number in range(50))
        with transaction.atomic():
            assert len(list(Group.objects.iterator(chunk_size=7))) == 50
        assert len(list(Group.objects.iterator(chunk_size=7))) == 50

    await project.run(work)


# Requests, and connections that outlive them


async def test_a_request_gives_its_connections_back(project: DjangoProject) -> None:
    def work() -> None:
        backend_pid("default")
        backend_pid("replica")
        assert leases() == 2
        new_request()
        assert leases() == 0

    await project.run(work)


async def test_a_persistent_connection_stays(project: DjangoProject) -> None:
    for settings_dict in project.databases.values():
        settings_dict["CONN_MAX_AGE"] = None
    project.configure()

    def work() -> None:
        pids = backend_pid("default"), backend_pid("replica")
        new_request()
        assert leases() == 2
        assert pids == (backend_pid("default"), backend_pid("replica"))
        connections.close_all()
        assert leases() == 0

    await project.run(forget_connections)
    await project.run(work)


async def test_a_connection_is_kept_for_its_age(project: DjangoProject) -> None:
    project.databases["default"]["CONN_MAX_AGE"] = 0.2
    project.configure()

    def work() -> None:
        pid = backend_pid()
        new_request()
        assert leases() == 1
        connection = connections["default"]
        assert connection.close_at is not None
        while time.monotonic() < connection.close_at:
            pass
        new_request()
        assert leases() == 0
        assert backend_pid() == pid  # the connection was given back, not thrown away

    await project.run(forget_connections)
    await project.run(work)


async def test_a_persistent_connection_goes_when_its_host_is_not_what_it_was(
    project: DjangoProject,
) -> None:
    """The promotion of a replica does not break the connections that read from it."""
    for settings_dict in project.databases.values():
        settings_dict["CONN_MAX_AGE"] = None
    project.configure()
    _, *others = project.cluster.replicas
    for other in others:
        other.kill()
    await project.run(forget_connections)
    await project.run(lambda: is_replica("replica"))
    assert await project.run(lambda: connections["replica"].connection is not None)
    await fail_over(project.cluster)
    await project.run(lambda: manager().ready(1, 0))
    await until(lambda: not project_replicas())
    # No request has begun since, so the thread still has its connection.
    assert await project.run(lambda: connections["replica"].connection is not None)

    def next_request() -> None:
        new_request()
        assert connections["replica"].connection is None
        assert leases() == 0
        assert db_of(Group.objects.create(name="after")) == "default"

    await project.run(next_request)


async def test_a_master_that_was_lost_costs_the_statement_in_flight(
    project: DjangoProject,
) -> None:
    project.databases["default"]["CONN_MAX_AGE"] = None
    project.configure()
    await project.run(forget_connections)
    await project.run(lambda: Group.objects.create(name="before"))
    await fail_over(project.cluster)

    def next_request() -> None:
        new_request()
        Group.objects.create(name="after")

    await project.run(next_request)


async def test_health_checks_find_a_session_that_was_ended(project: DjangoProject) -> None:
    project.databases["default"].update(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    project.configure()
    await project.run(forget_connections)
    pid = await project.run(backend_pid)
    assert await project.run(connection_is_usable)
    await project.cluster.master.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    assert not await project.run(connection_is_usable)

    def next_request() -> None:
        new_request()
        assert backend_pid() != pid

    await project.run(next_request)


async def test_what_fails_its_health_check_is_lent_to_nobody_again(project: DjangoProject) -> None:
    project.databases["default"].update(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    project.configure()
    await project.run(forget_connections)

    def leave_a_transaction_that_failed() -> int:
        pid = backend_pid()
        new_request()
        ask("default", "BEGIN")  # behind Django's back
        with pytest.raises(DataError):
            ask("default", "SELECT 1/0")
        assert not connection_is_usable()
        return pid

    pid = await project.run(leave_a_transaction_that_failed)

    def next_request() -> None:
        new_request()
        assert backend_pid() != pid

    await project.run(next_request)


def connection_is_usable() -> bool:
    return connections["default"].is_usable()


async def test_an_idle_session_that_was_ended_is_not_handed_out(project: DjangoProject) -> None:
    await project.run(backend_pid)
    await project.run(connections.close_all)
    await end_sessions(project.cluster.master, project.name)
    await project.run(backend_pid)


async def test_a_thread_that_ends_without_closing_gives_back(project: DjangoProject) -> None:
    await project.run(backend_pid, thread=1)
    assert await project.run(leases) == 1
    await project.end_thread(1)
    wanted = manager_in_use()
    await until(lambda: sum(node.in_flight for node in wanted.metrics().nodes) == 0)


async def test_threads_share_fewer_connections_than_they_are(project: DjangoProject) -> None:
    for settings_dict in project.databases.values():
        sizes = {"min_size": 1, "max_size": 2}
        settings_dict["OPTIONS"]["hasql"]["pool_factory_kwargs"] = sizes
    await project.run(project.configure)

    def requests(name: str) -> None:
        for number in range(10):
            request_started.send(sender=None)
            assert Group.objects.filter(name=f"{name}-{number}").count() == 0
            Group.objects.create(name=f"{name}-{number}")
            request_finished.send(sender=None)

    await asyncio.gather(*(project.run(requests, str(n), thread=n) for n in range(1, 9)))
    metrics = (await project.run(manager)).metrics()
    assert sum(node.in_flight for node in metrics.nodes) == 0
    assert all(node.pool_used <= 2 for node in metrics.nodes)
    assert await project.run(lambda: Group.objects.using("default").count()) == 80


def manager_in_use() -> PoolManager:
    from hasql.contrib.django import shared_managers

    (shared,) = shared_managers.all_managers()
    return shared.pool


async def test_transactions_and_their_hooks_are_djangos(project: DjangoProject) -> None:
    def work() -> None:
        called: list[str] = []
        with transaction.atomic():
            transaction.on_commit(lambda: called.append("committed"))
            Group.objects.create(name="a")
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                Group.objects.create(name="b")
                transaction.on_commit(lambda: called.append("rolled back"))
                raise ZeroDivisionError
            assert called == []
        assert called == ["committed"]
        assert [group.name for group in Group.objects.all()] == ["a"]

    await project.run(work)


async def test_closing_within_a_transaction_ends_it(project: DjangoProject) -> None:
    def work() -> None:
        with pytest.raises(ProgrammingError, match="new connection in an atomic block"):  # noqa: SIM117
            with transaction.atomic():
                Group.objects.create(name="a")
                connections["default"].close()
                Group.objects.count()
        assert leases() == 0
        assert Group.objects.count() == 0

    await project.run(work)


# Commands, and databases of tests


async def test_a_shell_finds_the_host_of_its_role(project: DjangoProject) -> None:
    def shell(alias: str) -> str:
        client = connections[alias].client
        arguments, env = client.settings_to_cmd_args_env(
            connections[alias].settings_dict, ["-XAtc", "SELECT pg_is_in_recovery()"]
        )
        environment = {**os.environ, **(env or {})}
        return subprocess.run(
            arguments, env=environment, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()

    assert await project.run(shell, "default") == "f"
    assert await project.run(shell, "replica") == "t"


async def test_inspectdb_reads_a_replica_as_well(project: DjangoProject) -> None:
    def work() -> str:
        output = io.StringIO()
        call_command("inspectdb", "auth_group", database="replica", stdout=output)
        return output.getvalue()

    assert "class AuthGroup(models.Model):" in await project.run(work)


async def test_databases_of_tests_come_and_go_while_managers_have_them(
    project: DjangoProject,
) -> None:
    project.databases["replica"]["TEST"] = {"MIRROR": "default"}
    for settings_dict in project.databases.values():
        settings_dict["CONN_MAX_AGE"] = None
    project.configure()
    await project.cluster.master.sql("ALTER ROLE app CREATEDB")

    def work() -> None:
        new_request()
        connections.close_all()
        old = setup_databases(verbosity=0, interactive=False, parallel=2)
        try:
            assert ask("default", "SELECT current_database()") == "test_app"
            assert ask("replica", "SELECT current_database()") == "test_app"
            assert not is_replica("replica")
            Group.objects.using("default").create(name="of a test")
            assert Group.objects.using("replica").get().name == "of a test"
            # Clone the database as for a worker process, while the alias is in use.
            connections["default"].creation.clone_test_db("3", verbosity=0)
            backend_pid()
        finally:
            connections["default"].creation.destroy_test_db(suffix="3", verbosity=0)
            backend_pid()
            backend_pid("replica")
            teardown_databases(old, verbosity=0, parallel=2)
        assert ask("default", "SELECT current_database()") == "app"
        names = "SELECT count(*) FROM pg_database WHERE datname LIKE 'test_app%%'"
        assert ask("default", names) == 0

    try:
        await project.run(forget_connections)
        await project.run(work)
    finally:
        await project.cluster.master.sql("ALTER ROLE app NOCREATEDB")


async def test_databases_are_made_by_a_direct_connection(project: DjangoProject) -> None:
    def work() -> None:
        wrapper: Any = connections["default"]
        with wrapper._nodb_cursor() as cursor:  # noqa: SLF001  # Django's, for its commands
            cursor.execute("SELECT current_database(), pg_is_in_recovery()")
            assert cursor.fetchone() == ("postgres", False)
        assert leases() == 0

    await project.run(work)


# Settings that cannot be right


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"OPTIONS": {"pool": True}}, r'OPTIONS\["pool"\] is for Django\'s own backend'),
        ({"OPTIONS": {"service": "main"}}, "name the hosts in HOST"),
        ({"OPTIONS": {"hasql": {"role": "primary"}}}, '"master" or "replica", not'),
        ({"OPTIONS": {"hasql": ["replica"]}}, "must be a dictionary of hasql's options"),
        ({"OPTIONS": {"hasql": {"refresh_deley": 1}}}, "refresh_deley"),
        ({"OPTIONS": {"hasql": {"acquire_timeout": -1}}}, "timeout"),
        ({"OPTIONS": {"isolation_level": "high"}}, "Invalid transaction isolation level"),
        ({"HOST": ""}, "names no host"),
        ({"PORT": "5432,5433"}, "port"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_settings_that_can_not_be_right_are_refused(
    project: DjangoProject, change: dict[str, Any], complaint: str
) -> None:
    def work() -> None:
        with pytest.raises(ImproperlyConfigured, match=complaint) as caught:
            connections["default"].ensure_connection()
        assert project.databases["default"]["PASSWORD"] not in str(caught.value)

    await project.run(forget_connections)
    project.databases["default"].update(change)
    project.configure()
    await project.run(work)
    await project.run(forget_connections)


_FORK = """
import os, sys
from testbed.django_project import DjangoProject
from hasql.testing import LocalCluster
from django.db import connections, transaction

def pid(alias="default"):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

with LocalCluster(replicas=1) as cluster:
    DjangoProject(cluster, "forks").configure()
    with transaction.atomic():
        mine = pid()
        child = os.fork()
        if not child:
            status = 1
            try:
                assert connections["default"].connection is None
                connections["default"].close()
                connections["default"].in_atomic_block = False
                assert pid() != mine and pid("replica")
                connections.close_all()
                status = 0
            finally:
                sys.stdout.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        assert pid() == mine
    connections.close_all()
print("well")
"""


async def test_parent_and_child_do_not_disturb_each_other() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _FORK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "well\n"), result.stderr
