"""What every test has: the event loops they run on."""

import socket

import pytest

pytest_plugins = ("tests.middlemen",)


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Run each async test on both event loops."""
    return request.param


@pytest.fixture
def unused_ports() -> tuple[int, int]:
    """Two ports of the loopback interface on which nobody listens."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
