"""An address at which connects get no answer, as behind a firewall or a host that is off."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("black_hole",)

#: More connects than Linux completes for a listener that accepts none: it drops all further ones.
_FILL = 4


@contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """Make connects to this address and port get no answer within a block."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(_FILL):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            with suppress(BlockingIOError):
                filling.connect((address, port))
        yield
