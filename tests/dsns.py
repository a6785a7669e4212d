"""Hypothesis strategies for hosts and DSNs."""

from hypothesis import strategies as st

from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec

# Every character that a server takes: in the protocol a NUL ends a string.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
ports = st.integers(1, 65535)
names = st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,20}", fullmatch=True)
directories = st.text(st.characters(codec="utf-8", exclude_characters="\0,"), max_size=20).map(
    lambda text: f"/{text}".rstrip()
)
addresses = st.one_of(
    names, directories, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
)
host_specs = st.builds(HostSpec, addresses, ports)


def params(keywords: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    return st.dictionaries(keywords, texts | st.just(""), max_size=4).map(
        lambda chosen: tuple(chosen.items())
    )


def dsns(keywords: st.SearchStrategy[str]) -> st.SearchStrategy[Dsn]:
    return st.builds(
        Dsn,
        st.lists(host_specs, min_size=1, max_size=4, unique=True).map(tuple),
        user=st.none() | texts,
        password=st.none() | texts,
        dbname=st.none() | texts,
        params=params(keywords),
    )
