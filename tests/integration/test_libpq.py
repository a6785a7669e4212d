"""libpq itself, which psycopg brings, reads the same in DSNs as hasql reads and writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec
from tests.dsns import dsns, host_specs

# libpq refuses keywords that it does not know.
known = st.sampled_from(
    ["sslmode", "application_name", "options", "connect_timeout", "sslrootcert", "passfile"]
)


@given(dsns(known), host_specs)
def test_libpq_reads_a_url_for_a_host_as_it_is_meant(dsn: Dsn, host: HostSpec) -> None:
    meant = {"host": host.host, "port": str(host.port), **dict(dsn.params)}
    meant |= {
        part: value for part in ("user", "password", "dbname") if (value := getattr(dsn, part))
    }
    assert conninfo_to_dict(dsn.for_host(host)) == meant


@given(dsns(known))
def test_keywords_and_values_are_read_as_libpq_reads_them(dsn: Dsn) -> None:
    parts = {"user": dsn.user, "password": dsn.password, "dbname": dsn.dbname, **dict(dsn.params)}
    text = make_conninfo(host="db1", port=5433, **{k: v for k, v in parts.items() if v})
    again = Dsn.parse(text)
    assert conninfo_to_dict(text) == conninfo_to_dict(again.for_host(HostSpec("db1", 5433)))
    assert (again.user, again.password, again.dbname) == (dsn.user, dsn.password, dsn.dbname)


@pytest.mark.parametrize("host", ["db9", "::1", "fe80::1%e", "/a:b"])
def test_libpq_understands_every_kind_of_host(host: str) -> None:
    dsn = Dsn.parse("postgresql://me:p%40@db1,db2/a%2Fb?options=-c x=y")
    assert conninfo_to_dict(dsn.for_host(HostSpec(host, 1))) == {
        "user": "me",
        "password": "p@",
        "dbname": "a/b",
        "host": host,
        "port": "1",
        "options": "-c x=y",
    }
