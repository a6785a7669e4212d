"""Measures what an idle manager costs, and how much memory many acquires leave behind.

    python benchmarks/idle.py [--seconds 20] [--acquires 100000]

The benchmark starts a cluster of three servers and, for each measurement, a manager in a process of
its own. It prints the memory that hasql adds to its driver's pools, the share of a core that it
uses while nothing happens, the same while it follows names with a TTL of one second, and the growth
of memory over many acquires.
"""

import argparse
import asyncio
import gc
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from names import named_dsn, tell_names

from hasql.testing import LocalCluster
from testbed.nameserver import NameServer


def rss() -> int:
    """Return this process's resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def cpu() -> float:
    """Return the processor seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def bare(dsns: list[str]) -> None:
    """Print the memory of asyncpg with a pool, and another connection, on each host."""
    import asyncpg

    pools = [await asyncpg.create_pool(dsn) for dsn in dsns]
    beside = [await asyncpg.connect(dsn) for dsn in dsns]
    for pool in pools:
        await pool.fetchval("SELECT 1")
    for connection in beside:
        await connection.fetchval("SELECT 1")
    gc.collect()
    print(rss())
    for pool in pools:
        pool.terminate()
    for connection in beside:
        connection.terminate()


async def managed(dsn: str, seconds: float, nameserver: str | None = None) -> None:
    """Print the memory of a manager, and the share of a core that it uses."""
    from hasql.asyncpg import PoolManager

    resolver = None
    if nameserver is not None:
        from hasql.dns import Resolver

        resolver = Resolver(nameservers=[nameserver], fallback=False)
    async with PoolManager(dsn, resolver=resolver) as manager:
        await manager.ready()
        gc.collect()
        began, used = time.monotonic(), cpu()
        await asyncio.sleep(seconds)
        print(rss(), (cpu() - used) / (time.monotonic() - began))


async def acquires(dsn: str, number: int) -> None:
    """Print by how many bytes memory grows over many acquires, after each tenth of them.

    asyncpg replaces a connection after 50,000 statements (`max_queries`), which changes the use of
    memory. Therefore the number of Python's objects is counted as well, and has to stay constant.
    """
    from hasql.asyncpg import PoolManager

    async with PoolManager(dsn) as manager:
        await manager.ready()
        sizes, objects = [], []
        for _ in range(11):
            for i in range(number // 10):
                async with manager.acquire(bool(i % 2)):
                    pass
            gc.collect()
            sizes.append(rss())
            objects.append(len(gc.get_objects()))
        # The first tenth warms up: statements, free lists, the window of probes.
        print(objects[-1] - objects[0], *(size - sizes[0] for size in sizes[1:]))


def run(*arguments: object) -> list[float]:
    """Run one measurement in a fresh interpreter and return what it prints."""
    command = [sys.executable, __file__, *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in output.split()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--acquires", type=int, default=100_000)
    options = parser.parse_args()
    with LocalCluster() as cluster, NameServer() as nameserver:
        tell_names(nameserver, cluster)
        rounds = 5
        drivers, managers, shares = [], [], []
        followers, shares_of_followers = [], []
        for _ in range(rounds):
            drivers.append(run("bare", *(node.dsn for node in cluster.nodes))[0])
            memory, share = run("managed", cluster.dsn, options.seconds / rounds)
            managers.append(memory)
            shares.append(share)
            named = "managed", named_dsn(cluster), options.seconds / rounds, nameserver.address
            memory, share = run(*named)
            followers.append(memory)
            shares_of_followers.append(share)
        mib = 1 << 20
        added = [(m - d) / mib for m, d in zip(managers, drivers, strict=True)]
        print(f"driver alone        {median(drivers) / mib:8.2f} MiB")
        print(f"hasql adds          {median(added):8.2f} MiB (worst {max(added):.2f})")
        print(f"of one core, idle   {median(shares):8.2%} (worst {max(shares):.2%})")
        added = [(f - m) / mib for f, m in zip(followers, managers, strict=True)]
        print(f"following adds      {median(added):8.2f} MiB (worst {max(added):.2f})")
        share = median(shares_of_followers)
        print(f"of one core, idle   {share:8.2%} (worst {max(shares_of_followers):.2%}), TTL 1 s")
        objects, *growth = run("acquires", cluster.dsn, options.acquires)
        print(f"{options.acquires} acquires, growth {growth[-1] / 1024:.0f} KiB,", end=" ")
        print(f"{objects:+.0f} objects")
        print("  by tenths, KiB:", *(f"{size / 1024:.0f}" for size in growth))


if __name__ == "__main__":
    measurements = {"bare", "managed", "acquires"}
    if len(sys.argv) > 1 and sys.argv[1] in measurements:
        name, *rest = sys.argv[1:]
        if name == "bare":
            asyncio.run(bare(rest))
        elif name == "managed":
            asyncio.run(managed(rest[0], float(rest[1]), *rest[2:]))
        else:
            asyncio.run(acquires(rest[0], int(rest[1])))
    else:
        main()
