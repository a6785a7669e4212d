"""Faults on real servers, under load, with every driver of both faces; and what each of them cost.

    make chaos                                                  all faults, all drivers
    make chaos ARGS="--list"                                    what there is
    make chaos ARGS="--runs 5 --driver asyncpg --fault crash"   five runs of one, with medians
    make chaos ARGS="--units --fault crash"                     the load is `run`, and nothing else
    make chaos ARGS="--json --fault freeze"                     everything that was measured

What is being played is told on standard error; the table comes at the end, or at an interruption,
on standard output. With one driver a crash takes four seconds and a freeze eight.

A run is one fault (`chaos.scenarios`) that happens to a cluster of a master and two replicas while
an application of one driver writes and reads (`chaos.application`): in tasks, or with the drivers
called sync-... in threads (`testbed.workers`), which is all that differs. Commits wait for a
replica, so that not one acknowledged row may be missing afterwards; the standby that is promoted
does not wait for others, as an HA manager would see to it. Then the cluster is mended, the load
ends, and
`chaos.verdict` says what was wrong:

- an acknowledged write is missing on the final master, and the old one was not "promoted beside";
- a deposed master acknowledged something after the promotion could be seen;
- a lease of a master ended up on a replica, or one of a replica on a master for longer than a
  moment after its promotion;
- an operation did not end within `acquire_timeout` and what aborting a lease takes;
- a server has more sessions than the pool's size and the reserved one, or any after `close()`;
- a place of a pool was lost, a task or thread was left, asyncio had something to complain about,
  memory grew.

What is measured, in milliseconds of the monotonic clock, which all processes share:

==========  ====================================================================================
added       from the moment the new master itself says that it is writable (a process of its own
            asks it every 2 ms) to the first write acknowledged through the pool manager
no master   from the fault to that moment
failed      operations that raised, of all tasks or threads
per task    the most of them that one of these saw
hang        the longest write, and the longest read, that ended after the fault and began before
            the cluster was mended, which restarts replicas
wrong       writes acknowledged by another server than the new master after it was asked to be one
==========  ====================================================================================

The table gives the median of the runs and, behind a stroke, the worst. Under --short things last
just long enough to go wrong: it is what `tests/integration/test_chaos.py` runs, for all drivers
at once and with bounds that a busy machine can keep.

Each fault is played once more to applications whose every operation is a unit of work, given to
`run` (`chaos.units`), of all drivers for tasks at once, then of all for threads; with --units to
nothing else. Then no error at all may be seen but CommitUnknownError, and no row is written twice:

==========  ====================================================================================
done        units of work that `run` has returned from
retried     how often one was tried again
found       commits whose answer was lost, and whose outcome `run` found out
unknown     those for which it raised CommitUnknownError
failed      units of work that raised anything else: must be 0
==========  ====================================================================================

Behind middle men (`chaos.passages`: HAProxy, names that are turned, PgBouncer) it is leases that
are counted (`chaos.leases`): masters are replaced beside living ones, killed and handed over, the
middle man follows, and each lease of a master is asked which server it is on. On a standby, or on
a replaced master once hasql could have known, must be 0 of 10,000. The same is asked where nothing
is in between, but role, database and environment are full of odd defaults; a process of its own
(`chaos.lease_process`) has that environment.

Names that move (`chaos.names`) are told of by a nameserver that is asked through the extra `dns`.
Servers stay as they are and listen at several addresses, so that nothing at all may fail:

==========  ====================================================================================
old for     the longest after a name had moved that a lease led to the address it had left
overdue     how much of it is beyond the name's TTL, a second at least, and 100 ms: must be 0
renewed     connections opened after it was known that names only rotate: must be 0
added       what an acquire takes more while the nameserver is away than one of a manager beside
            it, whose nameserver is well: of the medians; then of one in a hundred
==========  ====================================================================================

In the storm (`chaos.storm`) 64 workers take 100,000 leases while hosts are killed, frozen and
promoted in turn, and what is counted and left afterwards is looked at.

At COMMIT (`chaos.commits`) the master is lost at random moments, 25 times in each of eight ways:
killed, replaced once or twice, started again in between, or its answer lost in a proxy. Units of
work, which `run` does, write each a row; all drivers of the environment do at the same time. What
`run` says is compared with what is on the master that survives, and may never be wrong:

==========  ====================================================================================
moments     how often the master was lost
found       commits whose answer was lost, and whose outcome `run` found out
unknown     those for which it raised CommitUnknownError
longest     the longest that one unit of work took
==========  ====================================================================================

The network's faults come in two kinds. Proxies (`testbed/proxy.py`) take bytes in and pass none on;
that runs everywhere. Wires (`chaos.wire`) are tun devices whose packets get lost on the way, so
that the kernel's own TCP meets silence and loss; they need root.
"""
