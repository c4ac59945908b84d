"""One question to one member of etcd: connections that can be broken off, JSON, errors told apart."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import urllib3
import urllib3.connection
import urllib3.exceptions as failures

#: gRPC codes about the member asked, not the question: cancelled, deadline, aborted, internal (gRPC's own, of a stream
#: that a member which is being stopped broke off; etcd uses it for nothing), unavailable, data loss
_MEMBER_CODES = {1, 4, 10, 13, 14, 15}
#: what the gateway of a member that is being stopped says, with the code of an unknown error: it cannot hear itself
_BETWEEN = "transport: "
#: gRPC's code for what this user may not do, and for whoever is nobody
PERMISSION_DENIED = 7
#: makes a member without a leader say so at once, and end its watches, instead of staying silent
NEEDS_LEADER = {"Grpc-Metadata-Hasleader": "true"}


class EtcdError(Exception):
    """Anything that kept etcd from doing what was asked; the text is a sentence."""


class EtcdUnreachable(EtcdError):
    """No member answered with a quorum in time. ``reasons`` holds one reason per endpoint.

    A write that ends so may have been applied, or may be applied later: compare revisions afterwards.
    """

    def __init__(self, message: str, reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reasons: dict[str, str] = dict(reasons or {})


class EtcdRefused(EtcdError):
    """etcd answered with an error (out of space, compacted, not allowed); ``code`` is gRPC's."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


class NotAccepted(EtcdRefused):
    """etcd does not know the user, or not with this password. A member that lags says so of a new one, too."""


class MemberFailed(Exception):
    """One member gave no usable answer. ``again``: worth asking it once more within the same deadline;
    ``sent``: the question may have arrived."""

    def __init__(self, reason: str, *, again: bool = False, sent: bool = True) -> None:
        super().__init__(reason)
        self.again = again
        self.sent = sent


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files: the authority to trust, and the certificate and key to show."""

    ca: str
    certificate: str
    key: str


@dataclass(eq=False)
class Attempt:
    """One question to one endpoint, and the means to break it off from another thread."""

    endpoint: str
    deadline: float
    answer: dict[str, Any] = field(default_factory=dict)
    failure: Exception | None = None
    connection: Any = None
    done: bool = False
    broken_off: bool = False

    def break_off(self) -> None:
        """End a pending read now. A connection that serves another attempt meanwhile is left alone."""
        self.broken_off = True  # first, so that a connection just being made ends itself
        connection = self.connection
        if connection is None or self.done:
            return
        with connection.chefha_lock:
            if connection.chefha_owner is self and connection.sock is not None:
                # the plain shutdown, also under TLS: SSLSocket's own would upset the reader
                with contextlib.suppress(OSError):  # closed already, which is what was wanted
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


_running = threading.local()


class _Owned:
    """Mixed into urllib3's connections: which attempt uses the connection, so that it can be broken off."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chefha_lock = threading.Lock()  # of its own: a fork may happen while any lock is held
        self.chefha_owner: Attempt | None = None

    def connect(self) -> None:
        self._own()
        super().connect()  # type: ignore[misc]
        self._own()

    def request(self, *args: Any, **kwargs: Any) -> Any:
        self._own()
        return super().request(*args, **kwargs)  # type: ignore[misc]

    def _own(self) -> None:
        attempt: Attempt | None = getattr(_running, "attempt", None)
        with self.chefha_lock:
            self.chefha_owner = attempt
            if attempt is not None:
                attempt.connection = self
        if attempt is not None and attempt.broken_off:
            raise ConnectionAbortedError("the question was given up")


class _PlainConnection(_Owned, urllib3.connection.HTTPConnection):
    pass


class _TlsConnection(_Owned, urllib3.connection.HTTPSConnection):
    pass


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def open_pool(endpoint: str, tls: TlsFiles | None) -> urllib3.HTTPConnectionPool:
    """Keep-alive connections to one endpoint, ``http://host:port`` or ``https://…``; else ValueError.

    The PEM files are read again for each new connection, so rotated certificates need no restart.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"etcd endpoint {endpoint!r} is not a URL like https://10.0.0.1:2379")
    port = parts.port or 2379
    if parts.scheme == "http":
        return _PlainPool(parts.hostname, port, maxsize=4)
    files = {"ca_certs": tls.ca, "cert_file": tls.certificate, "key_file": tls.key} if tls else {}
    return _TlsPool(parts.hostname, port, maxsize=4, cert_reqs=ssl.CERT_REQUIRED, **files)  # type: ignore[arg-type]


def send(
    pool: urllib3.HTTPConnectionPool,
    path: str,
    body: Mapping[str, Any],
    attempt: Attempt,
    token: str = "",
    *,
    stream: bool = False,
) -> Any:
    """POST ``body`` as JSON on behalf of ``attempt``; urllib3's response, not yet read if ``stream``.
    MemberFailed.
    """
    left = attempt.deadline - time.monotonic()
    if left <= 0:
        raise MemberFailed("no time was left to ask it", sent=False)
    headers = {"Content-Type": "application/json"}
    if not path.startswith("/v3/maintenance"):
        headers |= NEEDS_LEADER
    if token:
        headers["Authorization"] = token
    _running.attempt = attempt
    try:
        return pool.urlopen(
            "POST",
            path,
            body=json.dumps(body).encode(),
            headers=headers,
            retries=False,
            redirect=False,
            timeout=urllib3.Timeout(connect=left, read=left),
            preload_content=not stream,
        )
    except (failures.NewConnectionError, failures.ConnectTimeoutError) as error:
        raise MemberFailed(_plain(error), sent=False) from error
    except (failures.HTTPError, OSError, ValueError) as error:
        # a kept connection that the member closed meanwhile fails like this: a second try opens a new one
        again = isinstance(error, failures.ProtocolError)
        raise MemberFailed(_plain(error), again=again) from error
    finally:
        _running.attempt = None


def ask(
    pool: urllib3.HTTPConnectionPool, path: str, body: Mapping[str, Any], attempt: Attempt, token: str = ""
) -> dict[str, Any]:
    """The decoded answer of one member. MemberFailed where it is no answer, EtcdRefused where it is a
    refusal.
    """
    response = send(pool, path, body, attempt, token)
    return decode(response.status, response.data)


def decode(status: int, data: bytes) -> dict[str, Any]:
    """The JSON object in an answer of the gateway, errors raised, a stream's wrapper taken off."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        text = " ".join(data[:200].decode("utf-8", "replace").split())
        raise MemberFailed(f"answered HTTP {status} and no JSON: {text!r}")
    error = answer.get("error")
    if error or status != 200:
        nested = error if isinstance(error, dict) else answer
        message = str(nested.get("message") or error or f"HTTP {status}")
        code = int(nested.get("grpc_code") or nested.get("code") or 2)
        if code in _MEMBER_CODES or _BETWEEN in message:
            raise MemberFailed(message, again=True)
        raise EtcdRefused(f"etcd refused: {message}", code)
    result = answer.get("result")
    return result if isinstance(result, dict) else answer


def _plain(error: Exception) -> str:
    """urllib3's nested exceptions in a few words."""
    if isinstance(error, failures.ConnectTimeoutError) and not isinstance(error, failures.NewConnectionError):
        return "did not accept a connection"
    if isinstance(error, failures.ReadTimeoutError):
        return "accepted the question but did not answer"
    cause: BaseException = error
    while True:
        inner = cause.__cause__ or cause.__context__ or next((a for a in cause.args if isinstance(a, Exception)), None)
        if inner is None:
            break
        cause = inner
    if isinstance(cause, ssl.SSLEOFError):
        return "ended the TLS session, as a member does that does not accept our certificate"
    if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
        return f"does not accept our certificate or our TLS ({cause.reason.lower().replace('_', ' ')})"
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.strerror:
        return cause.strerror.lower() + (f": {cause.filename}" if cause.filename else "")
    return str(cause) or type(cause).__name__
