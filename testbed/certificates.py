"""A certificate authority for one test, and the certificates that it issues, made with openssl."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("Authority",)

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """An authority; a client that trusts the file `certificate` trusts only what it issues."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = directory / "ca.key"
        self.certificate = directory / "ca.crt"
        _openssl(
            *("req", "-x509", "-days", "2", "-subj", f"/CN={directory.name}", *_KEY),
            *("-keyout", str(self._key), "-out", str(self.certificate)),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def issue(self, *names: str) -> Path:
        """Return a file with a key, and its certificate for these names, such as `IP:127.0.0.1`."""
        stem = self._directory / names[0].replace(":", "_")
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        key, whole = stem.with_suffix(".key"), stem.with_suffix(".pem")
        _openssl(
            *("req", "-new", "-subj", "/CN=hasql", *_KEY),
            *("-keyout", str(key), "-out", str(request)),
        )
        extensions.write_text(
            f"subjectAltName={','.join(names)}\n"
            "basicConstraints=CA:FALSE\n"
            "subjectKeyIdentifier=hash\n"
            "authorityKeyIdentifier=keyid\n"
        )
        certificate = _openssl(
            *("x509", "-req", "-days", "2", "-in", str(request), "-extfile", str(extensions)),
            *("-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial"),
        )
        whole.write_text(key.read_text() + certificate)
        return whole

    def server(self, *names: str, asks_for_a_certificate: bool = False) -> ssl.SSLContext:
        """Return the TLS context of a server that has a certificate for these names."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.certificate)
        context.load_cert_chain(self.issue(*names))
        if asks_for_a_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _openssl(*arguments: str) -> str:
    done = subprocess.run(
        ["openssl", *arguments],  # noqa: S607  # the machine's own
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
