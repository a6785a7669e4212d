"""The code that `tests`, `chaos` and `benchmarks` share, so that none of them imports another.

`testbed.kits`
    Each driver as an application uses it.
`testbed.scene`
    Actions on real servers, and observations of them.
`testbed.proxy`
    A TCP proxy that can go silent.
`testbed.middlemen`
    PgBouncer, HAProxy and an address that moves, in front of the servers.
`testbed.web`
    Example applications under their real web servers, load over HTTP, and a failover under it.
`testbed.patroni`, `testbed.patroni_scenes`
    A cluster that a real Patroni manages, and the faults of such a cluster.
`testbed.fake_driver`
    A scriptable cluster and a driver for it, without a server.
"""
