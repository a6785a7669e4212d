"""The arguments that a driver's library documents: those that hasql accepts or refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = (
    "CHOOSES",
    "DSN_ITSELF",
    "IN_THE_DSN",
    "NOT_OF_LIBPQ",
    "OF_LIBPQ",
    "OF_THE_LOOP",
    "Arguments",
    "hook",
)


class Arguments(NamedTuple):
    """The arguments of one callable of a library."""

    #: The arguments that hasql accepts, with a value for each.
    taken: dict[str, Any]
    #: The arguments that it refuses, each with words from the reason that it gives.
    refused: dict[str, str]
    #: The callables, as ``module.name``, whose signatures together name all arguments.
    documented_by: tuple[str, ...]
    #: Makes `pool_factory_kwargs` that contain some of the arguments.
    within: Callable[[dict[str, Any]], dict[str, Any]] = dict
    #: Arguments that are in the library's documentation, but not in its signatures.
    on_pages: tuple[str, ...] = ()


async def hook(*_: object) -> None: ...


#: Arguments for what hasql does itself, each with words from the remedy that it names.
IN_THE_DSN: Final = dict.fromkeys(("host", "port"), "name the hosts in the DSN")
CHOOSES: Final = {"target_session_attrs": "hasql itself chooses"}
DSN_ITSELF: Final = {"dsn": "the pool manager's first argument"}
OF_THE_LOOP: Final = {"loop": "event loop in which it is used"}

#: The parameters of libpq except the hosts; hasql also reads the first four in the DSN.
OF_LIBPQ: Final[dict[str, Any]] = {
    "user": "app",
    "password": "secret",
    "dbname": "app",
    "passfile": "/dev/null",
    "connect_timeout": 5,
    "client_encoding": "UTF8",
    "options": "-c work_mem=8MB",
    "application_name": "x",
    "fallback_application_name": "x",
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 5,
    "tcp_user_timeout": 5000,
    "replication": "false",
    "gssencmode": "disable",
    "sslmode": "disable",
    "sslcompression": 0,
    "sslcert": "/no/file",
    "sslkey": "/no/file",
    "sslpassword": "secret",
    "sslrootcert": "/no/file",
    "sslcrl": "/no/file",
    "sslcrldir": "/no/file",
    "sslsni": 1,
    "requirepeer": "postgres",
    "ssl_min_protocol_version": "TLSv1.2",
    "ssl_max_protocol_version": "TLSv1.3",
    "krbsrvname": "postgres",
    "channel_binding": "prefer",
}
NOT_OF_LIBPQ: Final = {
    **IN_THE_DSN,
    **CHOOSES,
    "hostaddr": "name the hosts in the DSN",
    "load_balance_hosts": "hasql itself chooses",
    "service": "service in the DSN",
}
