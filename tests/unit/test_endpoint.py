"""An endpoint: which address of a name a connect leads to."""

from __future__ import annotations

import asyncio

from hasql.cluster.host import parse_host
from hasql.driver import Endpoint, Failure


async def test_a_connect_during_which_the_name_moves_leads_to_where_it_has_moved() -> None:
    endpoint = Endpoint(parse_host("db"), "postgresql://db/app")
    endpoint.lead_to(("10.0.0.1",), lambda _: False)
    discarded: list[str | None] = []

    async def dial(address: str | None) -> str | None:
        if address == "10.0.0.1":
            endpoint.lead_to(("10.0.0.2",), {"10.0.0.1"}.__contains__)
        await asyncio.sleep(0)
        return address

    assert await endpoint.connect(dial, Failure.of_exception, discarded.append) == "10.0.0.2"
    assert discarded == ["10.0.0.1"]
