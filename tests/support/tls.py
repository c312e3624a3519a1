"""Servers that speak TLS, with certificates of an authority that is made for the test."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlencode

import trustme
from cryptography.hazmat.primitives import serialization

from stepflow_broker.server import EmbeddedServer

__all__ = ["TlsSite"]


class TlsSite:
    """An authority, the server that it has certified, and a client's certificate.

    Args:
        folder: for all files.
        host: the only name in the server's certificate.
        options: of the server; see `EmbeddedServer`.

    Attributes:
        ca: the file of the authority's certificate.
        server: runs while the site is entered; its ``port`` is the one without TLS.
    """

    def __init__(self, folder: Path, *, host: str = "localhost", **options: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        certificate, key = self._certify("server", host)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.server = EmbeddedServer(
            folder / "server",
            tls_port=str(self.port),
            tls_cert_file=str(certificate),
            tls_key_file=str(key),
            tls_ca_cert_file=str(self.ca),
            **{"tls_auth_clients": "no", **options},
        )

    def __enter__(self) -> TlsSite:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def url(self, *, host: str = "localhost", user: str = "", **options: object) -> str:
        """The server's URL with TLS; its authority is named unless ``ssl_ca_certs=None``."""
        named = {"ssl_ca_certs": self.ca, **options}
        words = urlencode({name: value for name, value in named.items() if value is not None})
        return f"rediss://{user}{host}:{self.port}/0?{words}"

    def client_files(self, password: str = "") -> dict[str, Path]:
        """A certificate of a client and its key, which has a password if one is given."""
        certificate, key = self._certify("client", "client.example")
        if password:
            private = serialization.load_pem_private_key(key.read_bytes(), None)
            encryption = serialization.BestAvailableEncryption(password.encode())
            encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
            key.write_bytes(private.private_bytes(encoding, form, encryption))
        return {"ssl_certfile": certificate, "ssl_keyfile": key}

    def _certify(self, name: str, host: str) -> tuple[Path, Path]:
        issued = self._authority.issue_cert(host)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return certificate, key
