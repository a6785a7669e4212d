"""Questions to one nameserver, and resolv.conf: all that the resolver uses dnspython for.

It uses neither dnspython's time limits nor its expirations, because both go by the wall clock,
which may jump.
"""

import asyncio
from dataclasses import dataclass
from io import StringIO

import dns.asyncquery
import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver

from hasql.dns.answers import QueryError, Reply, SrvTarget
from hasql.dns.nameservers import DEFAULT_PORT, Nameserver

__all__ = ("ResolvConf", "ask", "read_resolv_conf")

#: The flag for a truncated answer, within the third byte of a message.
_TRUNCATED = dns.flags.TC >> 8


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """The contents of resolv.conf: the nameservers, and how to complete a short name."""

    nameservers: tuple[Nameserver, ...]
    search: tuple[dns.name.Name, ...]
    ndots: int

    def names_for(self, host: str) -> tuple[str, ...]:
        """Return the full names that `host` may stand for, in the order of resolv.conf(5).

        Raises QueryError if `host` cannot be a name.
        """
        try:
            name = dns.name.from_text(host, origin=None)
            whole = name if name.is_absolute() else name.concatenate(dns.name.root)
        except (dns.exception.DNSException, UnicodeError) as error:
            msg = f"it is not a name that DNS can have: {error}"
            raise QueryError(msg) from error
        if name.is_absolute():
            return (whole.to_text(),)
        longer = []
        for domain in self.search:
            try:
                longer.append(name.concatenate(domain))
            except dns.name.NameTooLong:
                continue
        dots = len(name.labels) - 1
        names = [whole, *longer] if dots >= self.ndots else [*longer, whole]
        return tuple(dict.fromkeys(each.to_text() for each in names))


def read_resolv_conf(text: str) -> ResolvConf:
    """Read a resolv.conf, skipping what is wrong in it, as the system's resolver does.

    If it names no nameserver, the one on this machine, 127.0.0.1, is used.
    """
    library = dns.resolver.Resolver(configure=False)
    try:
        library.read_resolv_conf(StringIO("\n".join(map(_right_part, text.splitlines()))))
        servers = [str(each) for each in library.nameservers]
    except dns.resolver.NoResolverConfiguration:
        servers = []
    search = library.search or ([] if library.domain == dns.name.root else [library.domain])
    return ResolvConf(
        tuple(Nameserver(each, DEFAULT_PORT) for each in servers or ["127.0.0.1"]),
        tuple(search),
        1 if library.ndots is None else library.ndots,
    )


def _right_part(line: str) -> str:
    # Without this, dnspython would refuse the whole file for one wrong value.
    keyword, *values = line.split() or [""]
    if keyword in {"search", "domain"}:
        values = [value for value in values if _is_domain(value)]
    elif keyword == "nameserver":
        values = [value for value in values[:1] if dns.inet.is_address(value)]
    else:
        return line
    return " ".join([keyword, *values])


def _is_domain(text: str) -> bool:
    try:
        dns.name.from_text(text)
    except (dns.exception.DNSException, UnicodeError):
        return False
    return True


async def ask(server: Nameserver, name: str, kind: str) -> Reply:
    """Ask a nameserver for one kind of records: `A`, `AAAA` or `SRV`.

    TCP is used if the answer is too long for UDP. There is no time limit here. Raises QueryError.
    """
    query = dns.message.make_query(name, kind)
    try:
        response = await _over_udp(server, query)
        if response is None:
            response = await dns.asyncquery.tcp(query, server.address, None, server.port)
        return _reply(response)
    except dns.exception.DNSException as error:
        msg = f"answered nonsense ({error})"
        raise QueryError(msg) from error
    except (OSError, EOFError) as error:
        msg = f"could not be asked ({error})"
        raise QueryError(msg) from error


async def _over_udp(
    server: Nameserver, query: dns.message.QueryMessage
) -> dns.message.Message | None:
    """Return the answer, or None if it is too long for UDP."""
    wire = query.to_wire()
    # The socket is connected, so that the kernel drops datagrams from other addresses, and reports
    # if nothing listens on the nameserver's port.
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _FirstAnswer(wire[:2], answered), remote_addr=(server.address, server.port)
    )
    try:
        transport.sendto(wire)
        answer = await answered
    finally:
        transport.close()
    if len(answer) > 2 and answer[2] & _TRUNCATED:  # noqa: PLR2004  # the byte with the flag
        return None
    response = dns.message.from_wire(answer)
    if not query.is_response(response):
        msg = "answered another question"
        raise QueryError(msg)
    return response


class _FirstAnswer(asyncio.DatagramProtocol):
    """Waits for the first datagram that bears the number of the question.

    A datagram with another number comes from a forger who guesses, and the real answer may still
    come. If a datagram with the right number is nonsense, it is no use to wait for another one: a
    forger who knows the number could have forged a valid answer as well.
    """

    def __init__(self, number: bytes, answered: asyncio.Future[bytes]) -> None:
        self._number = number
        self._answered = answered

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  # connected
        if data[:2] == self._number and not self._answered.done():
            self._answered.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(exc)


def _reply(response: dns.message.Message) -> Reply:
    if response.rcode() == dns.rcode.NXDOMAIN:
        return Reply(exists=False)
    if response.rcode() != dns.rcode.NOERROR:
        msg = f"answered {dns.rcode.to_text(response.rcode())}"
        raise QueryError(msg)
    assert isinstance(response, dns.message.QueryMessage)  # noqa: S101  # it answers a query
    chain = response.resolve_chaining()
    if chain.answer is None:
        return Reply(exists=True)
    if chain.answer.rdtype != dns.rdatatype.SRV:
        addresses = tuple(record.address for record in chain.answer)
        return Reply(exists=True, addresses=addresses, ttl=float(chain.minimum_ttl))
    targets = tuple(
        SrvTarget(
            record.target.to_text(omit_final_dot=True),
            record.port,
            record.priority,
            record.weight,
        )
        for record in chain.answer
    )
    return Reply(exists=True, targets=targets, ttl=float(chain.minimum_ttl))
