"""What leaderl serves: over TLS on 7331 to whom ``doors`` lets in, and to root on a unix socket.

7331: ``GET /leader`` is 200 on the leader and 503 elsewhere, ``/status`` and ``/metrics`` tell more, ``POST /ask``
answers signed questions of the other members. Socket: ``GET /status``, ``POST /converge``.

The first byte tells TLS from plain HTTP, which only front ends' HAProxy speaks. Each connection has a thread of its
own, and little time to say what it wants.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import socketserver
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from chefha_core.leaderl.doors import MAY, Client, Doors
from chefha_core.parts.signing import ForgedMessage, open_with_any, sign
from chefha_core.parts.tls import Context

log = logging.getLogger(__name__)

SOCKET = Path("/run/chefha/leaderl.sock")
#: bytes of a request body that are read at the most
MOST = 65536
#: seconds until the first byte of a connection, and then until the end of the handshake
PATIENCE = 2.0
#: the first byte of a TLS session
HANDSHAKE = b"\x16"


class Service(Protocol):
    """What the server asks of leaderl."""

    tokens: tuple[str, ...]

    def leading(self) -> int: ...
    def status(self) -> dict[str, Any]: ...
    def metrics(self) -> str: ...
    def answer(self, question: dict[str, Any]) -> dict[str, Any]: ...
    def converge(self, epoch: int, timeout: float) -> dict[str, Any]: ...


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5.0  # seconds a client may take to send its request
    server_version = "leaderl"
    sys_version = ""
    service: Service
    doors: Doors | None = None
    local = False

    def do_GET(self) -> None:
        if self._refused():
            return
        if self.path == "/leader":
            epoch = self.service.leading()
            self._send(200 if epoch else 503, {"leader": bool(epoch), "epoch": epoch})
        elif self.path == "/status":
            self._send(200, self.service.status())
        elif self.path == "/metrics":
            self._send(200, self.service.metrics())
        else:
            self._send(404, {"error": "there are /leader, /status and /metrics"})

    def do_POST(self) -> None:
        if self._refused():  # before anything is read that it sends
            return
        length = self._length()
        if length < 0:
            self._send(400, {"error": "Content-Length is not a number of bytes"})
            return
        raw = self.rfile.read(length)
        if self.path == "/ask" and not self.local:
            self._answer(raw)
        elif self.path == "/converge" and self.local:
            self._converge(raw)
        else:
            self._send(404, {"error": "no such question"})

    def _length(self) -> int:
        """Bytes of the body that are read, MOST at the most; less than 0 where the header is wrong."""
        try:
            return min(int(self.headers.get("Content-Length") or 0), MOST)
        except ValueError:
            return -1

    def _refused(self) -> bool:
        """Answer a question that is not for who asks it."""
        asked, encrypted = f"{self.command} {self.path}", isinstance(self.connection, ssl.SSLSocket)
        if self.doors is None or asked not in MAY[Client.MEMBER]:
            return False
        if asked in self.doors.may(self.client_address[0], encrypted):
            return False
        self._send(403, {"error": f"{asked} is not for {self.client_address[0]}{'' if encrypted else ' without TLS'}"})
        return True

    def _answer(self, raw: bytes) -> None:
        try:
            question, nonce, token = open_with_any(self.service.tokens, raw)
        except ForgedMessage as error:
            self._send(403, {"error": str(error)})
            return
        answer = self.service.answer(question)
        self._send(200, sign(token, answer, nonce=nonce))  # which the other one knows, whatever else has changed here

    def _converge(self, raw: bytes) -> None:
        try:
            wish = json.loads(raw or b"{}")
            epoch, timeout = int(wish.get("epoch", 0)), float(wish.get("timeout", 30.0))
        except (ValueError, TypeError, AttributeError):
            self._send(400, {"error": 'expected {"epoch": number, "timeout": seconds}'})
            return
        self._send(200, self.service.converge(epoch, min(timeout, 600.0)))

    def _send(self, code: int, body: dict[str, Any] | bytes | str) -> None:
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; version=0.0.4" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def address_string(self) -> str:
        return "local" if self.local else str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("%s %s", self.address_string(), format % args)


class _TcpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    doors: Doors | None = None
    tls: Context | None = None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Before there is a thread for it: strangers are hung up on."""
        return self.doors is None or self.doors.client(client_address[0]) is not Client.STRANGER

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread."""
        connection = request
        try:
            connection = self._entered(request)
            super().finish_request(connection, client_address)
        except OSError as error:
            log.debug("%s: %s", client_address[0], error)
        finally:
            if connection is not request:
                self.shutdown_request(connection)

    def _entered(self, request: socket.socket) -> socket.socket:
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is None:
            return request
        request.settimeout(PATIENCE)
        if request.recv(1, socket.MSG_PEEK) != HANDSHAKE:
            return request
        return self.tls.get().wrap_socket(request, server_side=True)


class _SocketServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def serve(
    service: Service,
    address: str,
    port: int,
    path: Path = SOCKET,
    doors: Doors | None = None,
    tls: Context | None = None,
) -> list[socketserver.BaseServer]:
    """Start both servers in threads of their own; OSError if an address is taken. No ``doors``: open to everybody."""
    tcp = _TcpServer((address, port), type("Handler", (_Handler,), {"service": service, "doors": doors}))
    tcp.doors, tcp.tls = doors, tls
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        local = _SocketServer(str(path), type("LocalHandler", (_Handler,), {"service": service, "local": True}))
    finally:
        os.umask(mask)
    for server in (tcp, local):
        threading.Thread(target=server.serve_forever, name="chefha-http", daemon=True).start()
    return [tcp, local]


def ask_local(
    method: str, path: str, body: dict[str, Any] | None = None, timeout: float = 5.0, at: Path = SOCKET
) -> dict[str, Any]:
    """One question to this node's leaderl; OSError if it does not run, TimeoutError if it does not answer in time."""
    data = json.dumps(body or {}).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: local\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(at))
        connection.sendall(head.encode() + data)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return dict(json.loads(answer.split(b"\r\n\r\n", 1)[1]))
