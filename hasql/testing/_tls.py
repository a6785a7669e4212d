"""A new certificate for the servers of each cluster."""

import subprocess

from hasql.errors import ConfigurationError
from hasql.testing._machine import Machine

__all__ = ("Tls",)

# The certificate is its own authority: a client that trusts this file trusts no other servers.
_COMMAND = (
    *("openssl", "req", "-x509", "-days", "30", "-subj", "/CN=hasql.testing", "-nodes"),
    *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", "-", "-out", "-"),
    *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
    # Python requires this of an authority since 3.13.
    *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
)

_BEGIN = "-----BEGIN CERTIFICATE-----"


class Tls:
    """The files that servers and clients of a cluster need for TLS, below its directory.

    Raises:
        ConfigurationError: If the program openssl is missing or fails.
    """

    def __init__(self, machine: Machine) -> None:
        key, certificate = _make()
        self._key, self._certificate = f"{machine.root}/tls.key", f"{machine.root}/tls.crt"
        machine.write(self._key, key)
        machine.write(self._certificate, certificate)
        #: The path of the certificate for clients.
        self.root_certificate = machine.share("root.crt", certificate)

    @property
    def settings(self) -> dict[str, str]:
        """The settings for postgresql.conf."""
        return {"ssl": "on", "ssl_cert_file": self._certificate, "ssl_key_file": self._key}

    @property
    def parameters(self) -> str:
        """The parameters at the end of a DSN."""
        return f"?sslmode=verify-full&sslrootcert={self.root_certificate}"


def _make() -> tuple[str, str]:
    """Return a private key and its certificate, as PEM."""
    try:
        done = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=30, check=True)
    except FileNotFoundError:
        raise ConfigurationError(
            "tls=True needs the program openssl to make a certificate; install the package openssl"
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        raise ConfigurationError(
            f"tls=True: openssl made no certificate; it may be older than 1.1.1: {said}"
        ) from error
    key, begin, certificate = done.stdout.partition(_BEGIN)
    return key, begin + certificate
