"""A certificate for the servers of one cluster, made anew for each."""

import subprocess

from hasql.errors import ConfigurationError
from hasql.testing._machine import Machine

__all__ = ("Tls",)

# Its own authority: who trusts the one file trusts these servers and no others.
_COMMAND = (
    *("openssl", "req", "-x509", "-days", "30", "-subj", "/CN=hasql.testing", "-nodes"),
    *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", "-", "-out", "-"),
    *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
    # What Python checks of an authority since 3.13.
    *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
)

_BEGIN = "-----BEGIN CERTIFICATE-----"


class Tls:
    """What servers and clients of a cluster need for TLS, in files below its directory.

    Raises:
        ConfigurationError: without the program openssl, or when it fails.
    """

    def __init__(self, machine: Machine) -> None:
        key, certificate = _make()
        self._key, self._certificate = f"{machine.root}/tls.key", f"{machine.root}/tls.crt"
        machine.write(self._key, key)
        machine.write(self._certificate, certificate)
        #: Where clients find the certificate.
        self.root_certificate = machine.share("root.crt", certificate)

    @property
    def settings(self) -> dict[str, str]:
        """What stands in postgresql.conf."""
        return {"ssl": "on", "ssl_cert_file": self._certificate, "ssl_key_file": self._key}

    @property
    def parameters(self) -> str:
        """What stands at the end of a DSN."""
        return f"?sslmode=verify-full&sslrootcert={self.root_certificate}"


def _make() -> tuple[str, str]:
    """Return a private key and the certificate of its server, as PEM."""
    try:
        done = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=30, check=True)
    except FileNotFoundError:
        raise ConfigurationError(
            "tls=True needs the program openssl to make a certificate; install the package openssl"
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        raise ConfigurationError(
            f"tls=True: openssl makes no certificate, it may be older than 1.1.1: {said}"
        ) from error
    key, begin, certificate = done.stdout.partition(_BEGIN)
    return key, begin + certificate
