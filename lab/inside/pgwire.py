"""Just enough of PostgreSQL's protocol to write a row over a new connection, cheaply and with a real deadline.

A hundred new connections a second through libpq cost a client much of a core, most of it in deriving the SCRAM key
from the password again and again, and the measured machines share those cores. Here the key is derived once.
Everything is asyncio, so that a deadline ends an attempt wherever it hangs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import ssl
import struct
from dataclasses import dataclass, field

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
PROTOCOL = 196608


class PgError(Exception):
    """An error the server reported; `code` is its SQLSTATE."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class ProtocolError(Exception):
    """The other side does not speak as expected (such as: no TLS)."""


@dataclass
class Server:
    """Where to connect, as whom. TLS is required but the certificate is not checked (sslmode=require)."""

    host: str
    user: str
    password: str
    database: str = "postgres"
    port: int = 5432
    application: str = "chefha-lab-probe"
    scram: bool = True  # False: a client that knows md5 only
    served: int = 0  # connections that a server process works on now
    _keys: dict[tuple[bytes, int], bytes] = field(default_factory=dict, repr=False)
    _tls: ssl.SSLContext = field(default_factory=lambda: _unverified(), repr=False)

    async def query(self, sql: str) -> list[list[str]]:
        """Connect, run one statement, disconnect; return its rows. OSError, PgError or ProtocolError."""
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 24)
        try:
            writer.write(SSL_REQUEST)
            if await reader.readexactly(1) != b"S":
                raise ProtocolError("server offers no TLS")
            self.served += 1
            try:
                await writer.start_tls(self._tls)
                await self._log_in(reader, writer)
                _send(writer, b"Q", sql.encode() + b"\0")
                rows = await _rows(reader)
            finally:
                self.served -= 1
            _send(writer, b"X", b"")
            return rows
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("server closed the connection") from error
        finally:
            # Not close(): that would wait for the other side's good-bye, which a dead host never says.
            with contextlib.suppress(Exception):
                writer.transport.abort()

    async def _log_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        options = ("user", self.user, "database", self.database, "application_name", self.application)
        body = struct.pack("!i", PROTOCOL) + b"".join(o.encode() + b"\0" for o in options) + b"\0"
        writer.write(struct.pack("!i", len(body) + 4) + body)
        scram: Scram | None = None
        while True:
            kind, payload = await _message(reader)
            if kind == b"Z":
                return
            if kind != b"R":
                continue
            method, data = struct.unpack("!i", payload[:4])[0], payload[4:]
            if method == 10 and self.scram:
                scram = Scram(self)
                first = scram.first()
                _send(writer, b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
            elif method == 11 and scram:
                _send(writer, b"p", scram.final(data))
            elif method == 5:
                inner = hashlib.md5((self.password + self.user).encode()).hexdigest()
                _send(writer, b"p", b"md5" + hashlib.md5(inner.encode() + data).hexdigest().encode() + b"\0")
            elif method not in (0, 12):
                raise ProtocolError(f"server wants authentication method {method}")

    def salted(self, salt: bytes, rounds: int) -> bytes:
        """The key the password makes with this salt, derived once."""
        if (salt, rounds) not in self._keys:
            self._keys[salt, rounds] = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, rounds)
        return self._keys[salt, rounds]


class Scram:
    """The client's half of SCRAM-SHA-256 (RFC 5802), without channel binding."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._bare = "n=,r=" + base64.b64encode(os.urandom(18)).decode()

    def first(self) -> bytes:
        return ("n,," + self._bare).encode()

    def final(self, challenge: bytes) -> bytes:
        parts = dict(item.split("=", 1) for item in challenge.decode().split(","))
        salted = self._server.salted(base64.b64decode(parts["s"]), int(parts["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={parts['r']}"
        signed = f"{self._bare},{challenge.decode()},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _send(writer: asyncio.StreamWriter, kind: bytes, body: bytes) -> None:
    writer.write(kind + struct.pack("!i", len(body) + 4) + body)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next message; an error message is raised as PgError."""
    head = await reader.readexactly(5)
    payload = await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
    if head[:1] == b"E":
        fields = {part[:1]: part[1:].decode(errors="replace") for part in payload.split(b"\0") if part}
        raise PgError(fields.get(b"C", "?????"), fields.get(b"M", ""))
    return head[:1], payload


async def _rows(reader: asyncio.StreamReader) -> list[list[str]]:
    rows: list[list[str]] = []
    while True:
        kind, payload = await _message(reader)
        if kind == b"Z":
            return rows
        if kind == b"D":
            rows.append(_columns(payload))


def _columns(payload: bytes) -> list[str]:
    """A row's columns as text; NULL is an empty text."""
    count, at, columns = struct.unpack("!h", payload[:2])[0], 2, []
    for _ in range(count):
        length = struct.unpack("!i", payload[at : at + 4])[0]
        at += 4
        columns.append(payload[at : at + max(length, 0)].decode())
        at += max(length, 0)
    return columns
