"""A kill switch ends its own connection, from any thread, and never another one."""

from __future__ import annotations

import gc
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hasql._adapters.kill_switch import KillSwitch

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(20)


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield a driver's socket and the server's end of it."""
    ours, servers = socket.socketpair()
    with ours, servers:
        ours.settimeout(10)
        servers.settimeout(10)
        yield ours, servers


def test_a_thread_that_waits_for_the_server_wakes_up() -> None:
    with connection() as (ours, _), ThreadPoolExecutor(1) as threads:
        switch = KillSwitch(ours.fileno())
        received = threads.submit(ours.recv, 1)
        switch.shut_down()
        assert received.result(10) == b""
        switch.close()


def test_no_other_socket_is_ended_that_got_the_drivers_descriptor() -> None:
    with connection() as (ours, servers), connection() as (others, its_server):
        switch = KillSwitch(ours.fileno())
        # The driver has closed its socket, and another socket has got its descriptor.
        os.dup2(others.fileno(), ours.fileno(), inheritable=False)
        switch.shut_down()
        assert servers.recv(1) == b""
        others.send(b"x")
        assert its_server.recv(1) == b"x"
        switch.close()


def test_what_is_closed_ends_nothing() -> None:
    with connection() as (ours, servers), connection() as (others, its_server):
        switch = KillSwitch(ours.fileno())
        descriptor = switch.fileno()
        switch.close()
        switch.close()
        os.dup2(others.fileno(), descriptor, inheritable=False)
        try:
            switch.shut_down()
            ours.send(b"x")
            others.send(b"y")
            assert (servers.recv(1), its_server.recv(1)) == (b"x", b"y")
        finally:
            os.close(descriptor)
        assert switch.fileno() == -1


def test_one_that_is_forgotten_leaves_no_descriptor() -> None:
    with connection() as (ours, servers):
        switch = KillSwitch(ours.fileno())
        ours.close()
        del switch
        gc.collect()
        assert servers.recv(1) == b""  # the other end is closed everywhere


def test_a_closed_socket_has_none() -> None:
    with connection() as (ours, _):
        ours.close()
        with pytest.raises(OSError, match="descriptor"):
            KillSwitch(ours.fileno())


def test_a_forked_child_does_not_end_its_parents_connection() -> None:
    with connection() as (ours, servers):
        switch = KillSwitch(ours.fileno())
        child = os.fork()
        if child == 0:
            try:
                switch.shut_down()
                switch.close()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        ours.send(b"x")
        assert servers.recv(1) == b"x"
        switch.close()
