"""An application's own type readers, which read every value as zero.

In libraries that use libpq, such readers apply to all connections of the program; in asyncpg they
apply to one connection.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("misread_by_asyncpg", "misreading")

#: The types of all values that hasql reads, except text, which SQLAlchemy reads as well.
_TYPES = {"bool": 16, "int8": 20, "int4": 23, "float8": 701, "numeric": 1700}
_WORDS = {"text": 25}


@contextmanager
def misreading(*, words: bool) -> Iterator[None]:
    """Make psycopg and psycopg2 misread the values that they receive on any connection."""
    types = {**_TYPES, **_WORDS} if words else _TYPES
    with ExitStack() as stack:
        if find_spec("psycopg"):
            stack.enter_context(_psycopg(types))
        if find_spec("psycopg2"):
            stack.enter_context(_psycopg2(types))
        yield


@contextmanager
def _psycopg(types: dict[str, int]) -> Iterator[None]:
    import psycopg

    class Anything(psycopg.adapt.Loader):
        def load(self, data: Any) -> int:
            del data
            return 0

    formats = psycopg.pq.Format.TEXT, psycopg.pq.Format.BINARY
    loader = psycopg.adapters.get_loader
    before = {name: [loader(oid, each) for each in formats] for name, oid in types.items()}
    for name in types:
        psycopg.adapters.register_loader(name, Anything)
    try:
        yield
    finally:
        for name, loaders in before.items():
            for each in filter(None, loaders):
                psycopg.adapters.register_loader(name, each)


@contextmanager
def _psycopg2(types: dict[str, int]) -> Iterator[None]:
    from psycopg2 import extensions

    oids = tuple(types.values())
    before = [extensions.string_types.get(oid) for oid in oids]
    extensions.register_type(extensions.new_type(oids, "ANYTHING", lambda *_: 0))
    try:
        yield
    finally:
        for cast in filter(None, before):
            extensions.register_type(cast)


async def misread_by_asyncpg(connection: Any) -> None:
    """Make asyncpg misread the values that it receives on a connection; a hook for its pools."""
    raw = getattr(connection, "driver_connection", connection)  # the driver's, under SQLAlchemy
    for name in _TYPES:
        await raw.set_type_codec(
            name, schema="pg_catalog", encoder=str, decoder=lambda _: 0, format="text"
        )
