"""The demo's own nameserver, which resolves the names of the hosts."""

import asyncio
from typing import Self

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

__all__ = ("NameServer",)

_LOOPBACK = "127.0.0.1"


class NameServer(asyncio.DatagramProtocol):
    """Answers over UDP on loopback; use it in ``async with``.

    `records` holds an IPv4 address for each name, and may be changed at any time.
    """

    def __init__(self, ttl: int) -> None:
        self.ttl = ttl
        self.records: dict[str, str] = {}
        self._port = 0
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def address(self) -> str:
        """The server's address and port; they stay the same if it is stopped and started."""
        return f"{_LOOPBACK}:{self._port}"

    async def start(self) -> None:
        """Begin to answer."""
        loop = asyncio.get_running_loop()
        local = _LOOPBACK, self._port
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=local)
        self._port = self._transport.get_extra_info("sockname")[1]

    def stop(self) -> None:
        """Stop answering, as if the process had ended."""
        if self._transport is not None:
            self._transport.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a question."""
        try:
            question = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return
        if self._transport is not None and question.question:
            self._transport.sendto(self._answer(question).to_wire(), addr)

    def _answer(self, question: dns.message.Message) -> dns.message.Message:
        asked = question.question[0]
        answer = dns.message.make_response(question, recursion_available=True)
        address = self.records.get(asked.name.to_text(omit_final_dot=True).lower())
        if address is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif asked.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(asked.name, self.ttl, "IN", "A", address))
        return answer
