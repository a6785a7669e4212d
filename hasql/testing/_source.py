"""Chooses the machine that a cluster runs on."""

from typing import Literal

from hasql.testing._account import Account
from hasql.testing._local_machine import LocalMachine
from hasql.testing._machine import Machine
from hasql.testing.binaries import find_local, find_wheel, no_binaries
from hasql.testing.errors import ClusterError

__all__ = ("Source", "open_machine")

Source = Literal["auto", "wheel", "local", "docker"]


def open_machine(
    source: Source, version: int | None, ports: list[int], *, tls: bool = False
) -> Machine:
    """Prepare a machine with PostgreSQL: the wheel's, else this machine's own, else Docker's.

    With `tls`, only a PostgreSQL built with TLS is used: the wheel's was not, Docker's was.

    :raises ConfigurationError: if the source has no such version; the message lists remedies
    :raises ClusterError: if PostgreSQL is there but cannot run
    """
    if source in {"auto", "wheel", "local"}:
        account = Account.for_servers()
        for name, find in (("wheel", find_wheel), ("local", find_local)):
            if source in {"auto", name} and (found := find(version, account, tls=tls)):
                return LocalMachine(found, account)
    if source == "docker":
        return _docker(version, ports)
    if source == "auto":
        try:
            return _docker(version, ports)
        except ClusterError as error:
            raise no_binaries(source, version, tls=tls) from error
    raise no_binaries(source, version, tls=tls)


def _docker(version: int | None, ports: list[int]) -> Machine:
    from hasql.testing.docker import DockerMachine

    return DockerMachine(version, ports)
