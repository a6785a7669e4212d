"""One look-up of a name: attempts at one nameserver after the other, until one says what it has."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hasql.dns.answers import QueryError, Reply
from hasql.dns.nameservers import Nameserver

__all__ = ("Ask", "FoundRecords", "NoRecords", "Servers", "look_up")

Ask = Callable[[Nameserver, str, str], Awaitable[Reply]]

#: Seconds that the other kind of addresses is waited for once there are some of one kind.
#: Nameservers that swallow questions for AAAA would otherwise hold up each answer for a whole
#: timeout.
_OTHER_KIND = 1.0


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """There are records."""

    replies: Mapping[str, Reply]
    #: Whether each kind was answered; else one failed alone.
    whole: bool


@dataclass(frozen=True, slots=True)
class NoRecords:
    """No record was found."""

    said: tuple[str, ...]
    #: Whether nameservers said so; else they failed.
    empty: bool


class Servers:
    """The nameservers in turn, beginning with the one that answered last."""

    def __init__(self) -> None:
        self._good: Nameserver | None = None

    def in_turn(self, servers: Sequence[Nameserver]) -> list[Nameserver]:
        """Return them in the order to ask them in."""
        first = servers.index(self._good) if self._good in servers else 0
        return [*servers[first:], *servers[:first]]

    def answered(self, server: Nameserver) -> None:
        """Note that this one answered well."""
        self._good = server


@dataclass(slots=True)
class _LookupAttempts:
    """What is left of the attempts of one look-up, and what came of the others."""

    ask: Ask
    timeout: float
    turn: list[Nameserver]
    left: int
    silent: Callable[[], None]
    said: list[str] = field(default_factory=list)

    async def kinds_of(self, name: str, kinds: Sequence[str]) -> Mapping[str, Reply] | None:
        """Return what there is by the first nameserver that has or denies it; None: none is left.

        Of what is there some kind may be missing.
        """
        replies: dict[str, Reply] = {}
        while self.left > 0:
            server = self.turn[0]
            missing = [kind for kind in kinds if kind not in replies]
            faults = await self._attempt(server, name, missing, replies)
            if any(replies.values()) or not faults:
                self.said += faults
                return replies
            # One that says no well has not failed, so that a long search list costs no attempts.
            self.left -= 1
            self.said += [fault for fault in faults if fault not in self.said]
            self.turn = [*self.turn[1:], server]
        return None

    async def _attempt(
        self, server: Nameserver, name: str, kinds: Sequence[str], replies: dict[str, Reply]
    ) -> list[str]:
        """Ask for all kinds at once, put what comes into `replies` and return who failed how."""
        in_time = True
        tasks = {asyncio.ensure_future(self.ask(server, name, kind)): kind for kind in kinds}
        waiting = set(tasks)
        try:
            async with asyncio.timeout(self.timeout):
                while waiting:
                    found = any(not x.exception() and x.result() for x in tasks.keys() - waiting)
                    done, waiting = await asyncio.wait(
                        waiting,
                        timeout=_OTHER_KIND if found else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if not done:
                        break
        except TimeoutError:
            in_time = False
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        faults = []
        for task, kind in tasks.items():
            try:
                replies[kind] = task.result()
            except asyncio.CancelledError:
                faults.append(f"{server} gave no answer in time ({kind})")
            except QueryError as error:
                faults.append(f"{server} {error} ({kind})")
        if not in_time and not any(replies.values()):
            self.silent()
        return faults


async def look_up(  # noqa: PLR0913  # what is asked, whom, how long
    names: Sequence[str],
    kinds: Sequence[str],
    servers: Sequence[Nameserver],
    turns: Servers,
    *,
    ask: Ask,
    timeout: float,
    attempts: int,
    silent: Callable[[], None],
) -> FoundRecords | NoRecords:
    """Look up the first of these names that has records of these kinds.

    An attempt asks one server for all kinds and takes at most `timeout` seconds; `attempts` may
    fail in all, and `silent` is called when one has taken its whole time. A name that is denied
    leads to the next, one that nobody answers ends it: the next could be somebody else's.
    """
    run = _LookupAttempts(ask, timeout, turns.in_turn(servers), attempts, silent)
    for name in names:
        replies = await run.kinds_of(name, kinds)
        if replies is None:
            return NoRecords(tuple(run.said), empty=False)
        if any(replies.values()):
            turns.answered(run.turn[0])
            return FoundRecords(replies, whole=len(replies) == len(kinds))
        exists = any(reply.exists for reply in replies.values())
        run.said.append(
            f"{run.turn[0]} answered that {name.rstrip('.')} "
            + (f"has no {' or '.join(kinds)} records" if exists else "does not exist (NXDOMAIN)")
        )
    return NoRecords(tuple(run.said), empty=True)
