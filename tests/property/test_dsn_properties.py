"""Properties of every DSN, whatever its parts."""

import re
import traceback
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec, parse_host
from hasql.errors import ConfigurationError
from tests.dsns import dsns, host_specs, names, ports

_TAKEN = {"host", "hostaddr", "port", "user", "password", "dbname"}
_TAKEN |= {"target_session_attrs", "load_balance_hosts", "discovery"}
_TAKEN |= {"patroni_port", "patroni_scheme", "patroni_ca", "patroni_auth_file"}
keywords = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,20}", fullmatch=True).filter(
    lambda keyword: keyword not in _TAKEN
)

# The letters of these passwords occur in no message and in no other part of a DSN. So one of
# them, wherever it is found, is a piece of the password. The other characters split a DSN.
LETTERS = frozenset("жщэюяЖЩ")
passwords = st.text(st.sampled_from([*sorted(LETTERS), *"/?#@:&=%,[]'\\ +1"]), min_size=1).filter(
    LETTERS.intersection
)


def shows_a_piece(text: str) -> bool:
    return not LETTERS.isdisjoint(unquote(text))


@given(dsns(keywords), host_specs)
def test_a_url_for_a_host_keeps_every_part_exactly(dsn: Dsn, host: HostSpec) -> None:
    again = Dsn.parse(dsn.for_host(host))
    assert again == Dsn((host,), dsn.user, dsn.password, dsn.dbname, dsn.params)


@given(st.lists(st.tuples(names, st.none() | ports), min_size=1, max_size=5))
def test_ports_go_to_their_hosts_and_a_single_last_one_to_all(
    given_hosts: list[tuple[str, int | None]],
) -> None:
    text = ",".join(name if port is None else f"{name}:{port}" for name, port in given_hosts)
    *others, last = [port for _, port in given_hosts]
    rest = last if last is not None and not any(others) else None
    expected = dict.fromkeys(HostSpec(name, port or rest or 5432) for name, port in given_hosts)
    assert Dsn.parse(f"postgresql://{text}/app").hosts == tuple(expected)


@given(dsns(keywords))
def test_the_redacted_dsn_names_the_same_hosts(dsn: Dsn) -> None:
    assert Dsn.parse(dsn.redacted).hosts == dsn.hosts


@given(passwords)
def test_a_password_never_shows_when_it_is_encoded(password: str) -> None:
    quoted = password.replace("\\", r"\\").replace("'", r"\'")
    for text in (
        f"postgresql://me:{quote(password, safe='')}@db1,db2/app?sslpassword={quote(password)}",
        f"postgresql://db1/app?password={quote(password, safe='')}",
        f"host=db1 password='{quoted}'",
    ):
        dsn = Dsn.parse(text)
        assert dsn.password == password
        assert not shows_a_piece(f"{dsn} {dsn!r} {dsn.redacted}")


@given(passwords)
def test_a_password_never_shows_when_it_breaks_the_dsn(password: str) -> None:
    for text in (
        f"postgresql://me:{password}@db1,db2:6432/app?sslmode=require",
        f"postgresql://me:{password}@db1",
        f"postgresql://me:{password}@[::1]:5432/app",
        f"postgresql:///app?password={password}&host=db1",
        f"host=db1 password={password} port=5432",
        f"host=db1 password='{password}' port=5432",
        f"{password}@db1",
    ):
        try:
            shown = repr(Dsn.parse(text))
        except ConfigurationError as error:
            assert not error.__context__  # noqa: PT017 - either outcome is right
            shown = "".join(traceback.format_exception_only(error))
        assert not shows_a_piece(shown)


# Leaves out characters that repr() escapes, which no driver does, and the star of the mask.
secrets = st.text(
    st.characters(categories=["L", "N", "P", "S"], exclude_characters="*") | st.just(" "),
    min_size=1,
    max_size=12,
).filter(str.isprintable)


def told_with(secret: str) -> str:
    """Return a text like those of drivers and applications, with a secret where they write one."""
    url, libpq = quote(secret, safe=""), secret.replace("\\", r"\\").replace("'", r"\'")
    return (
        f"cannot connect to postgresql://u:{url}@h:5432/d?sslmode=x&sslpassword={url}&a=b, "
        f"{{'user': 'u', 'password': {secret!r}}} f(password={secret!r}, timeout=1) "
        f"host=h password='{libpq}' user=u PGPASSWORD={url} (sslpassword={url})"
    )


@given(secrets)
def test_a_secret_is_masked_where_it_stands_and_nothing_else_is(secret: str) -> None:
    for password in (secret, None):  # also if the secret is not in the DSN but in an argument
        dsn = Dsn((HostSpec("h", 5432),), "u", password, "d")
        shown = dsn.hide(told_with(secret)).replace('"', "'")  # repr() uses either quote
        assert shown == told_with("***").replace("%2A", "*")


_UNSPOILT = """connection to server at "db1", port 5432 failed: FATAL:  password authentication
failed for user "app"; no password supplied; database "shop" does not exist, host=db1 port=5432"""


@pytest.mark.parametrize("word", sorted(set(re.findall(r"\w+", _UNSPOILT))))
def test_a_password_that_is_a_word_spoils_no_message_and_is_not_told_by_stars(word: str) -> None:
    dsn = Dsn.parse(f"postgresql://app:{word}@db1/shop?sslpassword={word}")
    assert dsn.hide(_UNSPOILT) == _UNSPOILT
    shown = dsn.hide(f"{_UNSPOILT} {dsn.for_host(dsn.hosts[0])}")
    assert shown == f"{_UNSPOILT} postgresql://app:***@db1:5432/shop?sslpassword=***"


@given(st.from_regex(r"[a-z]{2}[0-9][A-Z][a-zA-Z0-9!$&]{6,20}", fullmatch=True))
def test_a_password_that_is_no_word_is_masked_in_any_place(secret: str) -> None:
    dsn = Dsn.parse(f"host=h password={secret}")
    assert dsn.hide(f"the token <{secret}> is too old") == "the token <***> is too old"


_pieces = st.sampled_from(
    [
        *("postgresql://", "postgres+x://", "host=", "port=", "user", "db1", ":5432", "::1"),
        *"[]/?@,'%&= \\\0\ud800",
        *("%2F", "%00", "9" * 5000),
    ]
)
arbitrary = st.text() | st.lists(_pieces | st.text(max_size=3)).map("".join)


@given(arbitrary)
def test_arbitrary_text_is_a_dsn_or_a_configuration_error(text: str) -> None:
    try:
        dsn = Dsn.parse(text)
    except ConfigurationError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
        return
    assert dsn.hosts
    for host in dsn.hosts:
        assert Dsn.parse(dsn.for_host(host)).hosts == (host,)


@given(host_specs)
def test_a_host_is_read_back_from_its_str(host: HostSpec) -> None:
    assert parse_host(str(host)) == host


@given(arbitrary)
def test_arbitrary_text_is_a_host_or_a_configuration_error(text: str) -> None:
    try:
        host = parse_host(text)
    except ConfigurationError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
        return
    assert parse_host(str(host)) == host


@given(dsns(keywords), st.sampled_from(["dns", "patroni", "srv"]), names, ports)
def test_a_source_is_read_back_from_what_is_shown_and_reaches_no_driver(
    dsn: Dsn, kind: str, name: str, port: int
) -> None:
    authority = name if kind == "srv" else f"{name}:{port}"
    query = "&".join([f"discovery={kind}", *(f"{k}={quote(v, safe='')}" for k, v in dsn.params)])
    try:
        parsed = Dsn.parse(f"postgresql://me:pass@{authority}/app?{query}")
    except ConfigurationError as error:
        assert "has an address" in str(error)  # noqa: PT017 - a name of digits and dots may be one
        return
    assert Dsn.parse(str(parsed)).source == parsed.source
    assert parsed.params == dsn.params
    assert "discovery" not in parsed.for_host(HostSpec(name, port)).partition("?")[2].split("=")
