"""Measures what a self-routing SQLAlchemy session costs, compared with one with a given role.

    make bench ARGS="routing_sessions --rounds 40"
    python benchmarks/routing_sessions.py [--rounds 40]

Both read the same row on the same replica, and which goes first changes from round to round. The
times are processor times of this process, in a thread with psycopg, so that other load on the
machine matters less.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import process_time

# Import hasql from the checkout, not an installed one.
sys.path.insert(0, str(Path(__file__).parent.parent))

from laps import Lap, added, times_bare
from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from hasql.sync.sqlalchemy import PoolManager, sessionmaker
from hasql.testing import LocalCluster

__all__ = ("main",)

_ROWS = 100
_TIMES = 50


class Base(DeclarativeBase):
    """The base of the mapped classes."""


class Item(Base):
    """A row of three columns."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
    name: Mapped[str]


_LARGE = (
    select(Item.name, func.count(), func.max(Item.number))
    .where(Item.id.in_([1, 2, 3]), or_(Item.number > 1, Item.number < 5), Item.name.like("x%"))
    .group_by(Item.name)
    .having(func.count() > 1)
    .order_by(Item.name)
    .limit(10)
)


def _per(times: int, work: Callable[[], object]) -> float:
    began = process_time()
    for _ in range(times):
        work()
    return (process_time() - began) / times


class Cases:
    """The measurements with one sessionmaker; each returns the seconds of one operation."""

    def __init__(self, maker: sessionmaker[Session], numbers: "count[int]") -> None:
        self._maker = maker
        self._numbers = numbers

    def session(self, *, read_only: bool | None) -> float:
        """Measure a session that executes one statement."""

        def one() -> None:
            with self._maker(read_only) as session:
                session.scalar(select(Item.number).where(Item.id == 1))

        return _per(_TIMES, one)

    def statement(self, *, read_only: bool | None) -> float:
        """Measure a short statement."""
        with self._maker(read_only) as session:
            return _per(_TIMES, lambda: session.scalar(select(Item.number).where(Item.id == 1)))

    def large(self, *, read_only: bool | None) -> float:
        """Measure a statement with thirty parts."""
        with self._maker(read_only) as session:
            return _per(_TIMES, lambda: session.execute(_LARGE).all())

    def objects(self, *, read_only: bool | None) -> float:
        """Measure the loading of an object."""
        query = select(Item).where(Item.id <= _ROWS)

        def load() -> None:
            session.scalars(query).all()
            session.expunge_all()

        with self._maker(read_only) as session:
            return _per(_TIMES // 5, load) / _ROWS

    def writes(self, *, read_only: bool | None) -> float:
        """Measure a session that reads an object and changes it."""

        def one() -> None:
            with self._maker(None if read_only is None else False) as session:
                session.get_one(Item, next(self._numbers)).number += 1
                session.commit()

        return _per(_TIMES // 5, one)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with (
        LocalCluster(replicas=1) as cluster,
        PoolManager(cluster.dsn.replace("://", "+psycopg://", 1)) as pool,
    ):
        pool.ready(1, 1)
        with pool.acquire_master() as connection:
            Base.metadata.create_all(connection)
            connection.execute(
                text("INSERT INTO items SELECT i, i, 'x' FROM generate_series(1, 100000) i")
            )
            connection.commit()
        numbers = count(1)
        told, routed = (Cases(sessionmaker(pool, route=x), numbers) for x in ("explicit", "auto"))  # type: ignore[arg-type]  # as they are
        print(f"{'':12}{'told, us':>12}{'added, us':>12}{'times':>16}")
        for name in ("session", "statement", "large", "objects", "writes"):
            gc.collect()
            laps = []
            for number in range(options.rounds + 2):
                order = ("bare", "managed") if number % 2 else ("managed", "bare")
                times = {
                    each: getattr(told, name)(read_only=True)
                    if each == "bare"
                    else getattr(routed, name)(read_only=None)
                    for each in order
                }
                laps.append(Lap(**times))
            laps = laps[2:]
            bare = min(lap.bare for lap in laps) * 1e6
            print(f"{name:12}{bare:12.1f}{added(laps) * 1e6:12.2f}{times_bare(laps)!s:>16}")


if __name__ == "__main__":
    main()
