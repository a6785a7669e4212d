"""Real middle men between an application and its servers, for tests and for `make chaos`.

Each of them has a `host` and a `port` for a DSN, and leads to anything that has both, so that one
middle man can be in front of another:

`PgBouncer` (testbed/middlemen/pgbouncer.py)
    In front of one server at a time, pooling sessions or transactions. `point_to` moves it to
    another server while it runs, `console` runs a command of its admin console.
`HAProxy` (testbed/middlemen/haproxy.py)
    Two addresses, `rw` and `r`, that lead to the master and to the replicas, by the health checks
    in Patroni's documentation. `cut=True` ends the sessions of a server that has lost the role of
    the address, `cut=False` leaves them alone. `until_leads` waits for its checks.
`Forwarder` (testbed/middlemen/forwarder.py)
    An address that can be turned to another server while it runs, with or without cutting existing
    flows, or that leads to several servers in turn, like a Kubernetes service or a cloud's
    endpoint. It is a `testbed.proxy.Proxy`, so it can go silent, too.

In a test:

    async def test_a_master_is_found_behind_a_pooler(kit, pg_cluster, pgbouncer):
        pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", default_pool_size=2)
        async with kit.manager(dsn_through(pg_cluster, pooler)) as manager: ...
        await pooler.point_to(pg_cluster.replicas[0], cut=True)

    async def test_a_master_is_followed_behind_a_service(kit, pg_cluster, haproxy):
        service = haproxy(cut=False)
        async with kit.manager(dsn_through(pg_cluster, service.rw, service.r)) as manager: ...

    async with Forwarder(pg_cluster.master) as service:
        service.turn(pg_cluster.replicas[0], cut=False)

The fixtures `pgbouncer` and `haproxy` (tests/middlemen.py) start as many programs as a test asks
for in front of its `pg_cluster`, and end them with the test. On a machine without the program they
skip the test, or fail it if HASQL_SKIP_NOTHING is set, as in `.ci/run`. Outside of tests (`make
chaos`) the classes are used in `with`. The programs run under the account of `LocalCluster`'s
servers, in directories of their own; they end with this process, even if it is killed.
"""
