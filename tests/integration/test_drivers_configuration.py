"""What every driver does with arguments that cannot work, however long one waits."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from hasql import NotAvailableError
from testbed.scene import tasks_end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

pytestmark = pytest.mark.usefixtures("nothing_unheard")

#: For tests whose outcome is the same on any event loop.
on_one_loop = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"], indirect=True
)


async def named_at_once(kit: Kit, dsn: str, words: str) -> None:
    """Expect `ready` and entering to raise at once an error that contains the words."""
    tasks = asyncio.all_tasks()
    async with asyncio.timeout(5):
        for start in ("ready", "__aenter__"):
            manager = kit.manager(dsn)
            with pytest.raises(Exception, match=f"(?i){words}") as caught:
                await getattr(manager, start)()
            assert not isinstance(caught.value, TimeoutError)
            await manager.close()
    await tasks_end(tasks)


_MENDED_BY_NO_WAITING = (
    ("sslmode=verify-fulll", "sslmode"),
    ("sslmode=require", "SSL"),  # the server has no TLS
    ("sslmode=require&ssl_min_protocol_version=TLSv9", "TLSv9"),
    ("sslnegotiation=x", "sslnegotiation"),
    ("options=-c%20no_such%3D1", "no_such"),
    ("options=-c%20work_mem%3Dmuch", "work_mem"),
    ("options=-c%20max_connections%3D9", "max_connections"),
    ("options=--bad", "--bad"),
    ("client_encoding=no_such", "no_such"),
    ("no_such=1", "no_such"),
    ("keepalives_idle=long", "keepalives_idle"),
    ("channel_binding=x", "channel_binding"),
    ("replication=x", "replication"),
)


@on_one_loop
async def test_what_no_waiting_mends_is_named_at_once(kit: Kit, pg_cluster: LocalCluster) -> None:
    for query, words in _MENDED_BY_NO_WAITING:
        if kit.min_keyword is not None:
            await named_at_once(kit, f"{pg_cluster.dsn}?{query}", words)
            continue
        # This pool begins with no connection. Settings that the reserved connection does not send
        # fail only when the pool opens one.
        manager = kit.manager(f"{pg_cluster.dsn}?{query}")
        async with asyncio.timeout(5):
            with pytest.raises(Exception, match=f"(?i){words}"):
                await manager.ready()
                _ = await manager.acquire_master(timeout=1)
            await manager.close()


@on_one_loop
async def test_an_unknown_service_is_named_at_once(
    kit: Kit, pg_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dsn = f"{pg_cluster.dsn}?service=no_such"
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "no_file"))
    if not kit.over_libpq:  # asyncpg takes an unknown service for an empty one
        async with kit.manager(dsn) as manager:
            await manager.ready()
        return
    await named_at_once(kit, dsn, "service file .* not found")
    services = tmp_path / "services"
    services.write_text("[another]\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    await named_at_once(kit, dsn, "service .no_such. not found")
    services.write_text("[no_such]\nsense\n")
    await named_at_once(kit, dsn, "service file .*, line 2")


# TLS, as far as it can be tested without PostgreSQL


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two unrelated certificates for the host localhost."""
    directory = tmp_path_factory.mktemp("certificates")
    for name in ("server", "other"):
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        command += f" -subj /CN=localhost -keyout {name}.key -out {name}.crt -days 2"
        subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
        (directory / f"{name}.key").chmod(0o600)
    return directory


@contextmanager
def tls_server(certificates: Path) -> Iterator[int]:
    """Begin TLS as PostgreSQL does, with nothing behind it; yield the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")

    def serve() -> None:
        with suppress(OSError):  # until the listening socket is shut down
            while True:
                client, _ = listener.accept()
                with client, suppress(OSError):  # if the client finds a fault
                    client.recv(8)
                    client.sendall(b"S")
                    with context.wrap_socket(client, server_side=True) as inside:
                        inside.recv(8)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


_FAULTS_OF_CERTIFICATES = (
    ("sslmode=verify-full&sslrootcert={0}/none.crt", "root ?cert.*none.crt"),
    ("sslmode=verify-ca&sslrootcert={0}", "root ?cert.*{0}"),
    ("sslmode=verify-ca&sslrootcert={0}/server.key", "certificate"),
    ("sslmode=verify-ca&sslrootcert={0}/other.crt", "certificate.verify.failed"),
    ("sslmode=verify-full&sslrootcert={0}/server.crt", "match|mismatch"),
    ("sslmode=require&sslcert={0}/server.key&sslkey={0}/server.key", "PEM|certificate"),
    ("sslmode=require&sslcert={0}/other.crt&sslkey={0}/none.key", "key.*none.key"),
    ("sslmode=require&sslcert={0}/other.crt&sslkey={0}/server.key", "key.*mismatch"),
)


async def test_certificates_that_do_not_fit_are_named_at_once(kit: Kit, certificates: Path) -> None:
    with tls_server(certificates) as port:
        for query, words in _FAULTS_OF_CERTIFICATES:
            dsn = f"postgresql://app@127.0.0.1:{port}/app?{query.format(certificates)}"
            await named_at_once(kit, dsn, words.format(re.escape(str(certificates))))


async def test_what_is_wrong_on_any_host_is_named_though_another_host_is_down(
    kit: Kit, certificates: Path, unused_ports: tuple[int, int]
) -> None:
    with tls_server(certificates) as port:
        hosts = f"127.0.0.1:{unused_ports[0]},127.0.0.1:{port},127.0.0.1:{unused_ports[1]}"
        query = f"sslmode=verify-full&sslrootcert={certificates}/none.crt"
        await named_at_once(kit, f"postgresql://app@{hosts}/app?{query}", "root ?cert.*none.crt")


@on_one_loop
async def test_a_socket_on_which_nobody_listens_yet_is_waited_for(kit: Kit, tmp_path: Path) -> None:
    manager = kit.manager(f"postgresql://app@/app?host={tmp_path}&sslrootcert=/no/file")
    with pytest.raises(NotAvailableError):
        await manager.ready(timeout=0.3)
    await manager.close()
