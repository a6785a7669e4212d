"""One look-up of a name: it asks one nameserver after the other until one gives a valid reply."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hasql.dns.answers import QueryError, Reply
from hasql.dns.nameservers import Nameserver

__all__ = ("Ask", "FoundRecords", "NoRecords", "Servers", "look_up")

Ask = Callable[[Nameserver, str, str], Awaitable[Reply]]

#: Seconds to wait for the other kind of addresses once there are some of one kind. Otherwise a
#: nameserver that ignores questions for AAAA would delay each answer by a whole timeout.
_OTHER_KIND = 1.0


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """The look-up has found records."""

    replies: Mapping[str, Reply]
    #: Whether each kind was answered; if not, the question for one of them failed.
    whole: bool


@dataclass(frozen=True, slots=True)
class NoRecords:
    """The look-up has found no record."""

    #: What each nameserver did or said.
    reasons: tuple[str, ...]
    #: Whether nameservers said that there is none; if not, they failed.
    empty: bool


class Servers:
    """The nameservers in turn, beginning with the one that answered last."""

    def __init__(self) -> None:
        self._last_good: Nameserver | None = None

    def in_order(self, servers: Sequence[Nameserver]) -> list[Nameserver]:
        """Return the nameservers in the order in which to ask them."""
        first = servers.index(self._last_good) if self._last_good in servers else 0
        return [*servers[first:], *servers[:first]]

    def answered(self, server: Nameserver) -> None:
        """Note that this nameserver gave a valid answer."""
        self._last_good = server


@dataclass(slots=True)
class _LookupAttempts:
    """The attempts of one look-up: how many are left, and what the others have brought."""

    ask: Ask
    timeout: float
    order: list[Nameserver]
    left: int
    on_timeout: Callable[[], None]
    reasons: list[str] = field(default_factory=list)

    async def replies_for(self, name: str, kinds: Sequence[str]) -> Mapping[str, Reply] | None:
        """Return the replies once a nameserver has or denies records; None: no attempt is left.

        If there are records, a kind may be missing from the replies.
        """
        replies: dict[str, Reply] = {}
        while self.left > 0:
            server = self.order[0]
            missing = [kind for kind in kinds if kind not in replies]
            faults = await self._attempt(server, name, missing, replies)
            if any(replies.values()) or not faults:
                self.reasons += faults
                return replies
            # Only failures count as attempts. A nameserver that denies a name has not failed, so a
            # long search list uses up no attempts.
            self.left -= 1
            self.reasons += [fault for fault in faults if fault not in self.reasons]
            self.order = [*self.order[1:], server]
        return None

    async def _attempt(
        self, server: Nameserver, name: str, kinds: Sequence[str], replies: dict[str, Reply]
    ) -> list[str]:
        """Ask for all kinds at once, put the answers into `replies`, and return the faults."""
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
            self.on_timeout()
        return faults


async def look_up(  # noqa: PLR0913  # what is asked, whom, how long
    names: Sequence[str],
    kinds: Sequence[str],
    servers: Sequence[Nameserver],
    rotation: Servers,
    *,
    ask: Ask,
    timeout: float,
    attempts: int,
    on_timeout: Callable[[], None],
) -> FoundRecords | NoRecords:
    """Look up the first of these names that has records of these kinds.

    An attempt asks one server for all kinds and takes at most `timeout` seconds. The look-up ends
    when `attempts` of them have failed; `on_timeout` is called for each that takes its whole time.
    If a name is denied, the next one is looked up. If no server answers for a name, the look-up
    ends: the next name could belong to somebody else.
    """
    run = _LookupAttempts(ask, timeout, rotation.in_order(servers), attempts, on_timeout)
    for name in names:
        replies = await run.replies_for(name, kinds)
        if replies is None:
            return NoRecords(tuple(run.reasons), empty=False)
        if any(replies.values()):
            rotation.answered(run.order[0])
            return FoundRecords(replies, whole=len(replies) == len(kinds))
        exists = any(reply.exists for reply in replies.values())
        run.reasons.append(
            f"{run.order[0]} answered that {name.rstrip('.')} "
            + (f"has no {' or '.join(kinds)} records" if exists else "does not exist (NXDOMAIN)")
        )
    return NoRecords(tuple(run.reasons), empty=True)
