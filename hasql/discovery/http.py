"""HTTP for sources of hosts: one request to one server, with limits on size and time.

Each request has a connection of its own, so that one that fails or is cancelled leaves nothing
behind that could affect a later one. A redirect counts as a failure, and no proxy is used.
"""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from hasql.cluster.host import HostSpec, parse_host
from hasql.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    import httpcore2

__all__ = ("HttpAnswer", "HttpClient", "HttpEndpoint", "HttpFailureError", "basic_auth")

_LONGEST_BODY: Final = 1 << 20
"""The longest answer in bytes. An answer with a hundred members has 40 kB."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_UNAUTHORIZED: Final = (401, 403)


class HttpFailureError(ConnectionError):
    """A server has given no usable answer; the message is the reason, without a URL."""


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """Where to ask, and with which credentials; `str()` and `repr()` do not show the latter."""

    tls: bool
    host: HostSpec
    authorization: bytes | None = field(default=None, repr=False, compare=False)

    @classmethod
    def parse(cls, url: str, what: str) -> "HttpEndpoint":
        """Read a URL such as `https://user:password@db1:8008`; errors call it `what`.

        Raises:
            ConfigurationError: `url` has another form. The message does not quote it.
            TypeError: `url` is not a str.
        """
        if not isinstance(url, str):
            raise TypeError(f"{what} must be a str, not {type(url).__name__}")
        parts, host = None, None
        # Our own error is raised only after the block: within it, Python would show it together
        # with the suppressed error, which quotes the URL.
        with suppress(KeyError, ValueError):
            parts = urlsplit(url.strip())
            host = parse_host(parts.netloc.rpartition("@")[2], _DEFAULT_PORTS[parts.scheme])
        if parts is None or host is None or host.host.startswith("/") or host.address:
            raise ConfigurationError(f"{what} is not a URL such as http://db1:8008")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ConfigurationError(f"{what} must end after the port: http://db1:8008")
        user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
        given = basic_auth(unquote(user), unquote(password)) if user or colon else None
        return cls(parts.scheme == "https", host, given)

    def __str__(self) -> str:
        """Return the URL without credentials, such as `https://db1:8008`."""
        return f"http{'s' if self.tls else ''}://{self.host}"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer of a server, with status 200."""

    body: bytes
    date: str | None
    """The time of the answer by the server's clock, in the form that HTTP uses."""


def basic_auth(user: str, password: str) -> bytes:
    """Return the value of the header for HTTP's basic authentication."""
    return b"Basic " + b64encode(f"{user}:{password}".encode())


class HttpClient:
    """Sends requests. `timeout` covers a whole request, from the connect to the last byte.

    Servers' certificates are always verified, against those in the file `ca`, or without it against
    the system's. `certificate` is the client's own: a file with certificate and key, or a file for
    each.

    Raises:
        MissingExtraError: httpcore2 is not installed.
    """

    def __init__(
        self,
        *,
        timeout: float,
        ca: str | None = None,
        certificate: str | tuple[str, str] | None = None,
    ) -> None:
        try:
            import httpcore2  # noqa: PLC0415  # an extra: only users of this need to install it
        except ImportError as error:
            raise MissingExtraError(
                "discovery by HTTP needs httpcore2: pip install 'hasql[patroni]'"
            ) from error
        self._library = httpcore2
        self._timeout = timeout
        self._ca = ca
        self._certificate = certificate
        self._tls: ssl.SSLContext | None = None

    def read_certificates(self) -> None:
        """Read the certificates for https, which takes up to 50 ms; call again if they may be new.

        Raises:
            ConfigurationError: One of the files cannot be read, or holds no certificate or key.
        """
        self._tls = _tls(self._ca, self._certificate)

    async def get(self, endpoint: HttpEndpoint, path: str) -> HttpAnswer:
        """Return the answer for this path.

        Raises:
            HttpFailureError: There is no answer in time, its status is not 200, or it is longer
                than 1 MiB.
        """
        library = self._library
        try:
            async with asyncio.timeout(self._timeout):
                return await self._get(endpoint, path)
        except TimeoutError:
            reason = f"no answer within {self._timeout:g} s"
        except HttpFailureError:
            raise
        except (OSError, library.NetworkError, library.TimeoutException) as error:
            reason = _innermost(error)
        except library.ProtocolError as error:
            reason = f"it does not speak HTTP as it should: {error}"
        raise HttpFailureError(reason)

    async def _get(self, endpoint: HttpEndpoint, path: str) -> HttpAnswer:
        url = self._library.URL(
            scheme="https" if endpoint.tls else "http",
            host=endpoint.host.host,
            port=endpoint.host.port,
            target=path,
        )
        if endpoint.tls and self._tls is None:
            self.read_certificates()
        headers: dict[bytes | str, bytes | str] = {
            "Host": str(endpoint.host),
            "Accept": "application/json",
            "Connection": "close",
        }
        if endpoint.authorization is not None:
            headers["Authorization"] = endpoint.authorization
        sockets = _Sockets()
        connection = self._library.AsyncHTTPConnection(url.origin, ssl_context=self._tls)
        try:
            async with connection.stream(
                "GET", url, headers=headers, extensions={"trace": sockets.note}
            ) as response:
                return await _read(response)
        finally:
            await sockets.close()


async def _read(response: "httpcore2.Response") -> HttpAnswer:
    if 300 <= response.status < 400:  # noqa: PLR2004  # HTTP's own
        raise HttpFailureError(
            f"it redirects ({response.status}), which hasql does not follow: give the URL that it "
            "leads to"
        )
    if response.status in _UNAUTHORIZED:
        raise HttpFailureError(
            f"it refused the request ({response.status}): check auth or certificate"
        )
    if response.status != 200:  # noqa: PLR2004  # HTTP's own
        raise HttpFailureError(f"it answered with status {response.status}")
    body = bytearray()
    async for part in response.aiter_stream():
        body += part
        if len(body) > _LONGEST_BODY:
            raise HttpFailureError(f"its answer is longer than {_LONGEST_BODY} bytes")
    dates = [value.decode("latin-1") for name, value in response.headers if name.lower() == b"date"]
    return HttpAnswer(bytes(body), dates[0] if dates else None)


class _Sockets:
    """The sockets of one request. A cancelled TLS handshake would leave its socket open."""

    def __init__(self) -> None:
        self._open: list[httpcore2.AsyncNetworkStream] = []

    async def note(self, event: str, told: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._open.append(told["return_value"])

    async def close(self) -> None:
        for stream in self._open:
            await stream.aclose()


def _tls(ca: str | None, certificate: str | tuple[str, str] | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # also for a file that holds no certificate
        raise ConfigurationError(f"ca={ca!r} cannot be used: {error}") from None
    if certificate is not None:
        file, key = (certificate, None) if isinstance(certificate, str) else certificate
        try:
            # The callback refuses. Without it, ssl would ask for the password at the terminal.
            context.load_cert_chain(file, key, _no_password)
        except OSError as error:
            raise ConfigurationError(
                f"certificate={certificate!r} cannot be used: {error}"
            ) from None
    return context


def _no_password() -> str:
    raise PermissionError("its key has a password; give a key without one")


def _innermost(error: BaseException) -> str:
    """Return the reason of the innermost error: the libraries wrap the system's errors."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            return str(error) or type(error).__name__
