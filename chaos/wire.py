"""A wire: a network of two addresses that can lose packets, for root on Linux."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import subprocess
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from typing import Self

__all__ = ("Wire", "why_no_wires")

_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_IPV4 = 4
_PACKET = 65536


def why_no_wires() -> str | None:
    """Return what is missing for wires, or None if nothing is."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root can make a tun device"
    if not _TUN.exists():
        return f"there is no {_TUN}"
    try:
        subprocess.run(["ip", "-V"], check=True, capture_output=True)  # noqa: S607 - as installed
    except (OSError, subprocess.CalledProcessError):
        return "there is no program ip (iproute2)"
    return None


class Wire:
    """Leads from this machine back to itself; use it in ``async with``.

    A packet sent to `far` arrives at `near` as if it came from `far`. Source and destination
    addresses are swapped; the checksums stay valid because they are sums.

    Args:
        number: A number from 0 to 63; wires in use at the same time need different ones.
    """

    def __init__(self, number: int) -> None:
        #: The server's port, by which the two directions are told apart.
        self.port = 0
        base = f"10.213.{os.getpid() % 256}."
        self.near, self.far = f"{base}{number * 4 + 1}", f"{base}{number * 4 + 2}"
        #: The share of packets that gets lost on the way to the server, and on the way back.
        self.loss_there = self.loss_back = 0.0
        self._file = -1

    async def __aenter__(self) -> Self:
        self._file = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            flags = _IFF_TUN | _IFF_NO_PI
            answer = ioctl(self._file, _TUNSETIFF, struct.pack("16sH14x", b"chaos%d", flags))
            name = answer[:16].rstrip(b"\0").decode()
            for arguments in (
                ("address", "add", self.near, "peer", self.far, "dev", name),
                ("link", "set", name, "up"),
            ):
                await asyncio.to_thread(
                    subprocess.run, ["ip", *arguments], check=True, capture_output=True
                )
        except BaseException:
            os.close(self._file)
            raise
        asyncio.get_running_loop().add_reader(self._file, self._carry)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._file)
        os.close(self._file)  # this removes the device, too

    def _carry(self) -> None:
        with suppress(BlockingIOError):
            while packet := os.read(self._file, _PACKET):
                if packet[0] >> 4 != _IPV4:
                    continue  # the kernel's search for IPv6 routers
                there = self._target_port(packet) == self.port
                if random.random() >= (self.loss_there if there else self.loss_back):  # noqa: S311
                    os.write(self._file, packet[:12] + packet[16:20] + packet[12:16] + packet[20:])

    @staticmethod
    def _target_port(packet: bytes) -> int:
        # TCP's header follows that of IP, whose length is given in units of four bytes.
        return int.from_bytes(packet[(packet[0] & 15) * 4 + 2 :][:2])
