"""A real nameserver on loopback, whose records and faults a test changes while traffic runs.

It runs in a thread of its own, so that any test, synchronous or not, can stop and start it at any
time.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import ip_address
from typing import Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

__all__ = ("Fault", "NameServer", "Question")

#: The most bytes of an answer over UDP to a client that did not announce how many it accepts.
_UDP_SIZE = 512


class Fault(Enum):
    """What a nameserver may do instead of answering correctly."""

    SILENT = auto()
    SERVFAIL = auto()
    REFUSED = auto()
    NXDOMAIN = auto()
    #: The name exists, but has no such record.
    EMPTY = auto()
    #: Bytes that are not a message, but begin with the id of the question.
    GARBAGE = auto()
    #: An answer with the right id, but to another question.
    MISTAKEN = auto()
    #: A correct answer to a question that was not asked.
    STRANGE = auto()
    #: The same, followed by the real answer: an attacker has tried to answer first.
    FORGED = auto()
    #: The answer does not fit into a datagram: the client has to ask over TCP.
    TRUNCATED = auto()


@dataclass(frozen=True, slots=True)
class Question:
    """A question: a name without the dot at its end, and a kind of record such as ``A``."""

    name: str
    kind: str
    tcp: bool


@dataclass(frozen=True, slots=True)
class _Records:
    """The records of one name and kind; a rotating name gives another one in each answer."""

    ttl: int
    texts: deque[str]
    rotating: bool = False

    def shown(self) -> list[str]:
        if not self.rotating:
            return list(self.texts)
        self.texts.rotate(-1)
        return [self.texts[-1]]


class NameServer:
    """A nameserver that knows the names it was given, and no others. Use it with ``with``.

    Every method may be called from any thread; changes apply from the next answer on.
    """

    def __init__(self, *, listen: str = "127.0.0.1") -> None:
        self._listen = listen
        self._port = 0
        self._lock = threading.Lock()
        self._asked = threading.Condition(self._lock)
        self._questions: list[Question] = []
        self._records: dict[tuple[str, str], _Records] = {}
        self._faults: dict[tuple[str | None, str | None], Fault] = {}
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Seconds that each answer takes.
        self.delay = 0.0

    @property
    def port(self) -> int:
        """The port for UDP and TCP; it stays the same when the server is stopped and started."""
        return self._port

    @property
    def address(self) -> str:
        """The address and port, in the form that `nameservers=` takes."""
        host = f"[{self._listen}]" if ":" in self._listen else self._listen
        return f"{host}:{self._port}"

    # Records.

    def set(self, name: str, *addresses: str, ttl: int = 1) -> None:
        """Give a name these addresses, IPv4 or IPv6, and no others; without any, it is empty."""
        self._set_addresses(name, addresses, ttl, rotating=False)

    def rotate(self, name: str, *addresses: str, ttl: int = 1) -> None:
        """Make each answer for a name hold one of these addresses, in turn."""
        self._set_addresses(name, addresses, ttl, rotating=True)

    def alias(self, name: str, target: str, *, ttl: int = 1) -> None:
        """Make a name an alias of another one, by a CNAME."""
        with self._lock:
            self._forget(name)
            self._records[name.lower(), "CNAME"] = _Records(ttl, deque([f"{target}."]))

    def set_srv(self, name: str, *targets: tuple[int, int, int, str], ttl: int = 1) -> None:
        """Give a name these SRV targets: priority, weight, port, host (``""`` for no service)."""
        texts = [f"{priority} {weight} {port} {host}." for priority, weight, port, host in targets]
        with self._lock:
            self._records[name.lower(), "SRV"] = _Records(ttl, deque(texts))

    def remove(self, name: str) -> None:
        """Remove a name: it no longer exists."""
        with self._lock:
            self._forget(name)

    # Faults.

    def fail(self, fault: Fault, *, name: str | None = None, kind: str | None = None) -> None:
        """Answer with a fault from now on, for one name, for one kind of record, or for all."""
        with self._lock:
            self._faults[name and name.lower(), kind] = fault

    def heal(self) -> None:
        """Answer correctly again."""
        with self._lock:
            self._faults.clear()
        self.delay = 0.0

    # What was asked.

    @property
    def questions(self) -> list[Question]:
        """All questions so far, answered or not."""
        with self._lock:
            return list(self._questions)

    def count(self, name: str | None = None, kind: str | None = None) -> int:
        """Count the questions; if a name or a kind is given, only those for it."""
        with self._lock:
            return self._count(name, kind)

    def forget_questions(self) -> None:
        """Start counting from zero again."""
        with self._lock:
            self._questions.clear()

    def wait_for_questions(
        self, number: int, name: str | None = None, kind: str | None = None, *, timeout: float = 10
    ) -> None:
        """Wait until that many questions were counted; TimeoutError after `timeout` seconds."""
        with self._asked:
            if not self._asked.wait_for(lambda: self._count(name, kind) >= number, timeout):
                msg = f"{self._count(name, kind)} questions of {number} came in {timeout} s"
                raise TimeoutError(msg)

    # Life.

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        assert self._thread is None, "it is running"
        udp, tcp = self._bind()
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(udp, tcp, started)), name="nameserver"
        )
        self._thread.start()
        started.wait()

    def stop(self) -> None:
        """Stop listening, as if the nameserver's process had ended."""
        if self._thread is None:
            return
        assert self._loop is not None
        assert self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _bind(self) -> tuple[socket.socket, socket.socket]:
        family = socket.AF_INET6 if ":" in self._listen else socket.AF_INET
        for _ in range(100):
            tcp = socket.create_server((self._listen, self._port), family=family)
            udp = socket.socket(family, socket.SOCK_DGRAM)
            port = tcp.getsockname()[1]
            try:
                udp.bind((self._listen, port))
            except OSError:  # another program uses the port, for UDP only
                udp.close()
                tcp.close()
                if self._port:
                    raise
            else:
                self._port = port
                return udp, tcp
        msg = "no port was free for both UDP and TCP"
        raise OSError(msg)

    async def _serve(
        self, udp: socket.socket, tcp: socket.socket, started: threading.Event
    ) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        transport, _ = await self._loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._answer_stream(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        listener = await asyncio.start_server(connected, sock=tcp)
        started.set()
        await self._stopping.wait()
        transport.close()
        listener.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _answer_stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    answers = self.answers(await reader.readexactly(size), tcp=True)
                    await asyncio.sleep(self.delay)
                    for answer in answers:
                        writer.write(len(answer).to_bytes(2, "big") + answer)
                        await writer.drain()
        finally:
            writer.transport.abort()

    # Answers.

    def answers(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        """Return the messages to send for a question; an empty list means silence."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return []
        asked = query.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(asked.rdtype)
        with self._asked:
            self._questions.append(Question(name, kind, tcp))
            self._asked.notify_all()
            fault = self._fault(name, kind)
            response = dns.message.make_response(query, recursion_available=True)
            if fault in _RCODES:
                response.set_rcode(_RCODES[fault])
            elif fault is not Fault.EMPTY:
                self._fill(response, name, kind)
        answer = self._wire(response, query, fits=tcp, truncated=fault is Fault.TRUNCATED)
        return self._sent(fault, query, answer)

    @staticmethod
    def _sent(fault: Fault | None, query: dns.message.Message, answer: bytes) -> list[bytes]:
        strange = ((query.id + 1) % 65536).to_bytes(2, "big") + answer[2:]
        match fault:
            case Fault.SILENT:
                return []
            case Fault.GARBAGE:
                return [answer[:2] + b"\xff" * 30]
            case Fault.MISTAKEN:
                other = dns.message.make_query("mistaken.test", "A", id=query.id)
                return [dns.message.make_response(other).to_wire()]
            case Fault.STRANGE:
                return [strange]
            case Fault.FORGED:
                return [strange, answer]
            case _:
                return [answer]

    @staticmethod
    def _wire(
        response: dns.message.Message, query: dns.message.Message, *, fits: bool, truncated: bool
    ) -> bytes:
        answer = response.to_wire(max_size=65535, want_shuffle=False)
        size = max(_UDP_SIZE, query.payload if query.edns >= 0 else 0)
        if fits or (len(answer) <= size and not truncated):
            return answer
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> None:
        response.flags |= dns.flags.AA
        while (alias := self._records.get((name, "CNAME"))) is not None and kind != "CNAME":
            self._add(response, name, "CNAME", alias)
            name = alias.texts[0].rstrip(".").lower()
        if (records := self._records.get((name, kind))) is not None:
            self._add(response, name, kind, records)
        elif all(known != name for known, _ in self._records):
            response.set_rcode(dns.rcode.NXDOMAIN)

    @staticmethod
    def _add(response: dns.message.Message, name: str, kind: str, records: _Records) -> None:
        if texts := records.shown():
            response.answer.append(
                dns.rrset.from_text_list(f"{name}.", records.ttl, "IN", kind, texts)
            )

    def _fault(self, name: str, kind: str) -> Fault | None:
        for which in ((name, kind), (name, None), (None, kind), (None, None)):
            if which in self._faults:
                return self._faults[which]
        return None

    def _count(self, name: str | None, kind: str | None) -> int:
        return sum(
            name in {None, question.name} and kind in {None, question.kind}
            for question in self._questions
        )

    def _set_addresses(
        self, name: str, addresses: tuple[str, ...], ttl: int, *, rotating: bool
    ) -> None:
        kinds: dict[str, deque[str]] = {"A": deque(), "AAAA": deque()}
        for address in addresses:
            kinds["A" if ip_address(address).version == 4 else "AAAA"].append(address)
        with self._lock:
            self._forget(name)
            for kind, texts in kinds.items():
                self._records[name.lower(), kind] = _Records(ttl, texts, rotating and bool(texts))

    def _forget(self, name: str) -> None:
        for key in [key for key in self._records if key[0] == name.lower()]:
            del self._records[key]


_RCODES = {
    Fault.SERVFAIL: dns.rcode.SERVFAIL,
    Fault.REFUSED: dns.rcode.REFUSED,
    Fault.NXDOMAIN: dns.rcode.NXDOMAIN,
}


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for answer in self._server.answers(data, tcp=False):
            asyncio.get_running_loop().call_later(self._server.delay, self._send, answer, addr)

    def _send(self, answer: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, addr)
