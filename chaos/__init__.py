"""Plays faults on real servers under load, with every driver, and measures what each fault costs.

    make chaos                                                  all faults, all drivers
    make chaos ARGS="--list"                                    list the faults
    make chaos ARGS="--runs 5 --driver asyncpg --fault crash"   five runs of one, with medians
    make chaos ARGS="--units --fault crash"                     the load uses only `run`
    make chaos ARGS="--json --fault freeze"                     everything that was measured

Standard error shows what is being played; standard output gets the table at the end, or at an
interruption. With one driver a crash takes four seconds and a freeze eight.

A run is one fault (`chaos.scenarios`) that happens to a cluster of a master and two replicas while
an application of one driver writes and reads (`chaos.application`). The application works in tasks,
or in threads if the driver's name begins with sync- (`testbed.workers`); nothing else differs.
Commits wait for a replica, so no acknowledged row may be missing afterwards. The promoted standby
does not wait for others; an HA manager would ensure that, too. Then the cluster is repaired, the
load ends, and `chaos.verdict` says what was wrong:

- an acknowledged write is missing on the final master, although the old master did not go on
  acknowledging writes beside the new one;
- a deposed master acknowledged something after the promotion could be seen;
- a lease of a master ended up on a replica, or one of a replica on a master for longer than a
  moment after its promotion;
- an operation took longer than `acquire_timeout` and the aborting of a lease;
- a server has more sessions than the pool's size and the reserved one, or any after `close()`;
- a connection of a pool could no longer be used, a task or thread was left over, asyncio
  complained, or memory grew.

The measurements are in milliseconds of the monotonic clock, which all processes share:

==========  ====================================================================================
added       from the moment the new master itself says that it is writable (a process of its own
            asks it every 2 ms) to the first write acknowledged through the pool manager
no master   from the fault to that moment
failed      operations that raised, of all tasks or threads
per task    the most failed operations of one task or thread
hang        the longest write, and the longest read, that ended after the fault and began before
            the cluster was repaired, which restarts replicas
wrong       writes that a server other than the new master acknowledged after the new master had
            been asked to become one
==========  ====================================================================================

The table gives the median of the runs and, after a bar, the worst. With --short everything lasts
just long enough to go wrong: `tests/integration/test_chaos.py` runs this form, for all drivers at
once and with bounds that a busy machine can keep.

Each fault is also played to applications in which every operation is a unit of work for `run`
(`chaos.units`): first to all drivers for tasks at once, then to all for threads; with --units only
these are played. Then no error except CommitUnknownError may occur, and no row may be written
twice:

==========  ====================================================================================
done        units of work that `run` has returned from
retried     how often a unit was tried again
found       commits whose answer was lost, and whose outcome `run` found out
unknown     those for which it raised CommitUnknownError
failed      units of work that raised anything else: must be 0
==========  ====================================================================================

Behind middle men (`chaos.passages`: HAProxy, names that are turned, PgBouncer) leases are counted
(`chaos.leases`). Masters are killed, handed over, or replaced while they live on; the middle man
follows, and each lease of a master is asked which server it is on. Of 10,000 leases, none may be on
a standby, or on a replaced master once hasql could have known of the replacement. The same is
played without a middle man, but with role, database and environment full of odd defaults; a process
of its own (`chaos.lease_process`) has that environment.

Names that move (`chaos.names`) are resolved by a nameserver that is asked through the extra `dns`.
The servers go on undisturbed and listen at several addresses, so nothing at all may fail:

==========  ====================================================================================
old for     the longest time after the move of a name that a lease led to the address it had left
overdue     how much of that exceeds the name's TTL (at least 1 s) plus 100 ms: must be 0
renewed     connections opened after it was known that names only rotate: must be 0
added       how much longer an acquire takes while the nameserver is away, compared with one of a
            second manager whose nameserver answers: the medians, then the slowest of a hundred
==========  ====================================================================================

In the storm (`chaos.storm`) 64 workers take 100,000 leases while hosts are killed, frozen and
promoted in turn. Afterwards the counts are checked, and whether anything is left over.

At COMMIT (`chaos.commits`) the master is lost at random moments, 25 times in each of eight ways:
killed, replaced once or twice, restarted in between, or its answer lost in a proxy. Units of work
for `run` write a row each, with all drivers of the environment at the same time. What `run` says is
compared with the rows on the surviving master, and must never be wrong:

==========  ====================================================================================
moments     how often the master was lost
found       commits whose answer was lost, and whose outcome `run` found out
unknown     those for which it raised CommitUnknownError
longest     the longest time that a unit of work took
==========  ====================================================================================

There are two kinds of network faults. Proxies (`testbed/proxy.py`) accept bytes and forward none;
they run everywhere. Wires (`chaos.wire`) are tun devices that lose packets, so that the kernel's
own TCP meets silence and loss; they need root.
"""
