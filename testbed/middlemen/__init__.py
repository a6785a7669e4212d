"""Real middle men between an application and its servers, for tests and for `make chaos`.

Everything here has a `host` and a `port` that stand in a DSN, and takes anything that has both as
what it leads to, so that one can stand before another:

`PgBouncer` (testbed/middlemen/pgbouncer.py)
    Before one server at a time, pooling sessions or transactions. `point_to` has it move to
    another server while it runs, `console` runs a command of its admin console.
`HAProxy` (testbed/middlemen/haproxy.py)
    Two addresses, `rw` and `r`, that lead to the master and to the replicas by the health checks
    that Patroni's documentation shows. `cut=True` ends the sessions of a server that is not what
    the address promises any more, `cut=False` lets them be. `until_leads` waits for its checks.
`Forwarder` (testbed/middlemen/forwarder.py)
    An address that is turned to another server while it runs, with or without cutting the flows
    there are, or that leads to several servers in turn: a Kubernetes service, a cloud's endpoint.
    It is a `testbed.proxy.Proxy`, so it can go deaf, too.

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

The fixtures `pgbouncer` and `haproxy` (tests/middlemen.py) start what a test asks for, as
often as it asks, before its `pg_cluster`, and end it with the test. They skip a test on a machine
without the program, and fail it where HASQL_SKIP_NOTHING is set, as `.ci/run` sets it. Outside of
tests (`make chaos`) the classes are used in `with`. Programs run under the account of
`LocalCluster`'s servers, in a directory of their own; they end with this process, also when that is
killed.
"""
