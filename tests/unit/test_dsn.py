"""What a DSN means, and which DSNs are refused with which remedy."""

import pickle
import traceback
from collections.abc import Callable

import pytest

from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec, parse_host
from hasql.errors import ConfigurationError


def hosts(text: str) -> list[str]:
    return [str(host) for host in Dsn.parse(text).hosts]


@pytest.mark.parametrize(
    ("host_list", "expected"),
    [
        ("db1", ["db1:5432"]),
        ("db1:6432", ["db1:6432"]),
        ("db1,db2", ["db1:5432", "db2:5432"]),
        ("db1,db2,db3:6432", ["db1:6432", "db2:6432", "db3:6432"]),
        ("db1,db2:5433,db3", ["db1:5432", "db2:5433", "db3:5432"]),
        ("db1:5433,db2,db3", ["db1:5433", "db2:5432", "db3:5432"]),
        ("db1:5433,db2,db3:6432", ["db1:5433", "db2:5432", "db3:6432"]),
        ("[::1],[::2]:6432", ["[::1]:6432", "[::2]:6432"]),
        ("[fe80::1%25eth0]", ["[fe80::1%eth0]:5432"]),
        ("%2Frun%2Fpostgresql:5433,db1", ["/run/postgresql:5433", "db1:5432"]),
        ("10.0.0.1, db_2.example.com", ["10.0.0.1:5432", "db_2.example.com:5432"]),
    ],
)
def test_a_port_at_the_very_end_is_for_all_and_any_other_for_its_own_host(
    host_list: str, expected: list[str]
) -> None:
    assert hosts(f"postgresql://u:p@{host_list}/app") == expected
    assert hosts(f"postgresql://{host_list}") == expected
    assert hosts(f"postgresql://{host_list}?sslmode=require") == expected


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "PostgreSQL"])
def test_every_scheme_becomes_postgresql(scheme: str) -> None:
    dsn = Dsn.parse(f"{scheme}://db1/app")
    assert dsn.for_host(dsn.hosts[0]) == "postgresql://db1:5432/app"


_URL_TAIL = "sslmode=require&application_name=a+b%20c"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:s%3A%20p@db1:5433,db2:5433/app?{_URL_TAIL}",
        f"postgresql://db1,db2:5433?user=me&password=s:%20p&dbname=app&{_URL_TAIL}",
        f"postgresql:///app?host=db1,db2&port=5433&user=me&password=s: p&{_URL_TAIL}",
        f"postgresql+psycopg://me:s: p@/app?host=db1:5433&host=db2:5433&{_URL_TAIL}\n",
        """host=db1,db2 port=5433,5433 user=me password='s: p' dbname = app
           sslmode=require application_name=a+b\\ c""",
        """ hostaddr='db1,db2' port=5433 user=me password=s:\\ p dbname=a\\pp
           target_session_attrs=any sslmode=prefer sslmode=require application_name='a+b c' """,
    ],
)
def test_all_spellings_mean_the_same(text: str) -> None:
    assert Dsn.parse(text) == Dsn(
        hosts=(HostSpec("db1", 5433), HostSpec("db2", 5433)),
        user="me",
        password="s: p",  # noqa: S106 - no server has it
        dbname="app",
        params=(("sslmode", "require"), ("application_name", "a+b c")),
    )


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("postgresql://db1/app", None),
        ("postgres://db1/app", None),
        ("host=db1", None),
        ("postgresql+asyncpg://db1/app", "asyncpg"),
        ("PostgreSQL+PsycoPG://db1,db2/app", "psycopg"),
    ],
)
def test_the_driver_in_a_scheme_is_told_and_changes_nothing_else(
    text: str, driver: str | None
) -> None:
    dsn = Dsn.parse(text)
    assert dsn.driver == driver
    assert dsn.for_host(dsn.hosts[0]).startswith("postgresql://")
    assert dsn == Dsn.parse(str(dsn))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://db1,DB1,db1:5432", ["db1:5432"]),
        ("postgresql://db1:5432,db1:5433", ["db1:5432", "db1:5433"]),
        ("postgresql://[::1],[0:0::1]", ["[::1]:5432"]),
        ("host=/Run,/run", ["/Run:5432", "/run:5432"]),
    ],
)
def test_duplicates_are_merged_whatever_their_spelling(text: str, expected: list[str]) -> None:
    assert hosts(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql:///app?host=/run/postgresql", "/run/postgresql:5432"),
        ("postgresql://u@localhost/app?host=/cloudsql/p:r:i", "/cloudsql/p:r:i:5432"),
        ("postgresql://:5433/app?host=/run", "/run:5433"),
        ("postgresql:///app?host=::1&port=5433", "[::1]:5433"),
        ("host=::1", "[::1]:5432"),
        ("host=/run port=5433", "/run:5433"),
        ("hostaddr=10.0.0.1", "10.0.0.1:5432"),
    ],
)
def test_a_host_parameter_is_read_as_libpq_reads_it(text: str, expected: str) -> None:
    assert hosts(text) == [expected]


@pytest.mark.parametrize(
    ("userinfo", "user", "password"),
    [
        ("me:p%40%3A%2F%3F%23%25", "me", "p@:/?#%"),
        ("me:p@s:s#wrd", "me", "p@s:s#wrd"),
        ("me%40org:p,w", "me@org", "p,w"),
        ("me@org:pw", "me@org", "pw"),
        ("me:пароль", "me", "пароль"),
        ("me:%D0%BF", "me", "п"),
        ("me:", "me", None),
        (":pw", None, "pw"),
        ("", None, None),
    ],
)
def test_the_last_at_sign_ends_user_and_password(
    userinfo: str, user: str | None, password: str | None
) -> None:
    dsn = Dsn.parse(f"postgresql://{userinfo}@db1/app")
    assert (dsn.user, dsn.password) == (user, password)


def test_a_query_parameter_takes_precedence_and_the_last_of_equal_ones_counts() -> None:
    dsn = Dsn.parse("postgresql://a:b@db1/c?user=x@org&password=y&dbname=z&sslmode=a&sslmode=b")
    assert (dsn.user, dsn.password, dsn.dbname) == ("x@org", "y", "z")
    assert dsn.params == (("sslmode", "b"),)


def test_a_plus_in_a_query_alone_is_a_space_for_those_who_say_so() -> None:
    text = "postgresql://a+b:c+d@db1/e+f?application_name=g+h%2Bi&sslpassword=a+b"
    for plus_is_space, params in (
        (False, (("application_name", "g+h+i"), ("sslpassword", "a+b"))),
        (True, (("application_name", "g h+i"), ("sslpassword", "a b"))),
    ):
        dsn = Dsn.parse(text, plus_is_space=plus_is_space)
        assert (dsn.user, dsn.password, dsn.dbname) == ("a+b", "c+d", "e+f")
        assert dsn.params == params
        assert Dsn.parse(dsn.for_host(dsn.hosts[0]), plus_is_space=plus_is_space) == dsn
    words = "host=db1 application_name=a+b"
    assert Dsn.parse(words, plus_is_space=True) == Dsn.parse(words)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (HostSpec("db9", 1), "postgresql://me:p%40@db9:1/a%2Fb?options=-c%20x%3Dy"),
        (HostSpec("::1", 1), "postgresql://me:p%40@[::1]:1/a%2Fb?options=-c%20x%3Dy"),
        (HostSpec("fe80::1%e", 1), "postgresql://me:p%40@[fe80::1%25e]:1/a%2Fb?options=-c%20x%3Dy"),
        (
            HostSpec("/a:b", 1),
            "postgresql://me:p%40@/a%2Fb?host=%2Fa%3Ab&port=1&options=-c%20x%3Dy",
        ),
    ],
)
def test_a_url_for_one_host_names_that_one_alone(host: HostSpec, url: str) -> None:
    dsn = Dsn.parse("postgresql://me:p%40@db1,db2/a%2Fb?options=-c x=y")
    assert dsn.for_host(host) == url


def test_without_a_database_name_the_url_leaves_it_to_the_driver() -> None:
    dsn = Dsn.parse("host=db1 sslmode=require")
    assert dsn.for_host(dsn.hosts[0]) == "postgresql://db1:5432?sslmode=require"


def test_str_and_repr_show_everything_but_secrets() -> None:
    dsn = Dsn.parse("postgresql://me:pw@db1,[::1],%2Frun/app?sslpassword=key&sslmode=require")
    shown = (
        "postgresql://me:***@db1:5432,[::1]:5432,%2Frun:5432/app?sslpassword=***&sslmode=require"
    )
    assert str(dsn) == dsn.redacted == shown
    assert repr(dsn) == f"<Dsn {shown}>"
    assert Dsn.parse(shown).hosts == dsn.hosts
    assert Dsn.parse("host=db1 user=me sslpassword=key").redacted.endswith("?sslpassword=***")


def test_a_dsn_can_be_hashed_and_pickled() -> None:
    dsn = Dsn.parse("postgresql://me:pw@db1/app?sslmode=require")
    assert pickle.loads(pickle.dumps(dsn)) == dsn  # noqa: S301 - our own bytes
    assert len({dsn, Dsn.parse("postgresql://me:pw@DB1:5432/app?sslmode=require")}) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no host; name at least one"),
        ("postgresql://", "names no host; name at least one"),
        ("postgresql:///app", "names no host; name at least one"),
        ("dbname=app", "names no host; name at least one"),
        ("db1", "parameter 1 in the DSN .* begin a URL with postgresql://"),
        ("me:pw@db1/app?sslmode=require", "parameter 1 .* begin a URL with postgresql://"),
        ("mysql://db1", "scheme of the DSN"),
        ("postgresql://db1,,db2", "host 2 of 3 in the DSN is empty"),
        ("postgresql://db1,", "host 2 of 2 in the DSN is empty"),
        ("postgresql://db1,:5433", "host 2 of 2 in the DSN is empty"),
        ("postgresql://db1:", "port of host 1 of 1 in the DSN is not a number from 1 to 65535"),
        ("postgresql://db1,db2:x", "port of host 2 of 2"),
        ("postgresql://db1:0", "port of host 1 of 1"),
        ("postgresql://db1:65536", "port of host 1 of 1"),
        ("postgresql://db1:\u0665", "port of host 1 of 1"),
        ("postgresql://db1:" + "9" * 5000, "port of host 1 of 1"),
        ("postgresql://::1", "host 1 of 1 .* brackets"),
        ("postgresql://[::1", "host 1 of 1 .* brackets"),
        ("postgresql://[::1]5433", "host 1 of 1 .* brackets"),
        ("postgresql://[db1]:5433", "host 1 of 1 .* brackets"),
        ("postgresql://[::g]", "host 1 of 1 in the DSN is not a valid IPv6 address"),
        ("postgresql://[fe80::1%25a%2Fb]", "host 1 of 1 in the DSN is not a valid IPv6 address"),
        ("postgresql://db 1", "host 1 of 1 in the DSN is not a host name"),
        ("postgresql://дб", "host 1 of 1 .* xn--"),
        ("postgresql://db1%2Cdb2", "host 1 of 1 in the DSN is not a host name"),
        ("postgresql://%2Fa%2Cb", "host 1 of 1 in the DSN is a directory with a comma"),
        ("postgresql://%zz", "host 1 of 1 .* %25"),
        ("postgresql://u:100%@db1", "the password in the DSN .* %25"),
        ("postgresql://%u@db1", "the user in the DSN .* %25"),
        ("postgresql://db1/%ff", "the database name in the DSN is not UTF-8"),
        ("postgresql://db1/%00", "the database name in the DSN .* NUL"),
        ("postgresql://db1/a\0b", "NUL"),
        ("postgresql://db1/\udc80", "lone surrogate"),
        ("postgresql://u:p@db1,u:p@db2", "user before more than one host"),
        ("postgresql://db1,u:p@db2", "user before more than one host"),
        ("postgresql://u:a/b@db1/app", "'/' as %2F"),
        ("postgresql://u:a?b@db1/app", "'\\?' as %3F"),
        ("postgresql://db1/app?x=a@b", "'@' as %40"),
        ("postgresql://db1?sslmode", "query parameter 1 of 1"),
        ("postgresql://db1?a=1&&b=2", "query parameter 2 of 3"),
        ("postgresql://db1?password=a&b", "query parameter 2 of 2 .* %26"),
        ("postgresql://db1?a-b=1", "query parameter 1 of 1"),
        ("postgresql://db1:5432/app?port=5433", "ports beside the hosts and again as port"),
        ("host=db1,db2 port=1,2,3", "3 ports for 2 hosts"),
        ("host=db1 port=1,2", "2 ports for 1 hosts"),
        ("host=db1,db2 port=1,", "port 2 of 2"),
        ("host=db1 hostaddr=10.0.0.1", "by name and again as hostaddr"),
        ("postgresql://db1?hostaddr=10.0.0.1", "by name and again as hostaddr"),
        ("host=db1 password='open", "parameter 2 .* single quotes"),
        ("host=db1 password=a b", "parameter 3 .* single quotes"),
        ("host=db1 =x", "parameter 2"),
        ("host=db1 target_session_attrs=read-write", "remove target_session_attrs"),
        ("postgresql://db1?load_balance_hosts=random", "remove load_balance_hosts"),
    ],
)
def test_what_cannot_be_parsed_is_refused_with_its_place_and_remedy(
    text: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Dsn.parse(text)


def test_the_neutral_routing_parameters_are_dropped() -> None:
    dsn = Dsn.parse("postgresql://db1?target_session_attrs=any&load_balance_hosts=disable")
    assert dsn.params == ()


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hunter/2@db1/app",
        "postgresql://u:hunter?2@db1/app",
        "postgresql://u:5432/hunter@db1/app",
        "postgresql://u:5432?hunter=2@db1/app",
        "postgresql://u:100%hunter@db1",
        "postgresql://u:hunter%ff@db1",
        "postgresql://u:hunter",
        "postgresql://u:[hunter",
        "postgresql://[::hunter]",
        "postgresql://db1?password=%ffhunter",
        "postgresql://db1?password=a&hunter",
        "postgresql://db1?target_session_attrs=hunter",
        "hunter://db1",
        "u:hunter@db1",
        "host=db1 password='hunter",
        "host=db1 password=a hunter",
        "host=db1 port=hunter",
        "host=hunter@2",
    ],
)
def test_an_error_never_shows_a_piece_of_the_password(text: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Dsn.parse(text)
    assert raised.value.__context__ is None
    assert "hunter" not in "".join(traceback.format_exception_only(raised.value))


@pytest.mark.parametrize("read", [Dsn.parse, parse_host])
def test_only_a_str_is_read(read: Callable[[str], object]) -> None:
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        read(b"postgresql://db1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db1", HostSpec("db1", 6432)),
        (" DB1:5433 ", HostSpec("db1", 5433)),
        ("10.0.0.1", HostSpec("10.0.0.1", 6432)),
        ("::1", HostSpec("::1", 6432)),
        ("[::1]", HostSpec("::1", 6432)),
        ("[0::1]:5433", HostSpec("::1", 5433)),
        ("/run/postgresql", HostSpec("/run/postgresql", 6432)),
        ("/run/postgresql:5433", HostSpec("/run/postgresql", 5433)),
        ("/cloudsql/p:r:i", HostSpec("/cloudsql/p:r:i", 6432)),
        ("/run[10.0.0.1]", HostSpec("/run[10.0.0.1]", 6432)),
        ("DB[10.0.0.1]", HostSpec("db", 6432, "10.0.0.1")),
        ("db[0::1]:5433", HostSpec("db", 5433, "::1")),
    ],
)
def test_one_host_is_read_in_every_form(text: str, expected: HostSpec) -> None:
    assert parse_host(text, 6432) == expected
    assert parse_host(str(expected)) == expected


def test_a_default_port_of_0_tells_that_none_is_written() -> None:
    assert parse_host("db1", 0).port == 0
    assert parse_host("db1:5432", 0).port == 5432


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "db 1", "db1,db2", "u@db1", "postgresql://db1", "db1\0"),
        *(":5433", "db1:", "db1:x", "db1:0", "/run:0", "[::1", "[]", "a:b:c"),
        *("/a,b", "/a\udc80"),
        *("db[]", "db[db2]", "db[10.0.0.1]x", "db[10.0.0.1]:0"),
    ],
)
def test_anything_but_one_host_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^the (port of the )?host "):
        parse_host(text)


def test_a_dsn_has_one_item_for_each_host() -> None:
    dsn = Dsn.parse("postgresql://app:secret@db1:1234,db2,[::1]/name?sslmode=require")
    assert len(dsn) == 3
    assert [str(one) for one in dsn] == [
        "postgresql://app:***@db1:1234/name?sslmode=require",
        "postgresql://app:***@db2:5432/name?sslmode=require",
        "postgresql://app:***@[::1]:5432/name?sslmode=require",
    ]
    assert [one.hosts for one in dsn] == [(host,) for host in dsn.hosts]
    assert [one.for_host(one.hosts[0]) for one in dsn] == [dsn.for_host(h) for h in dsn.hosts]
