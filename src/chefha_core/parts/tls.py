"""TLS contexts that follow their files: what the states replace counts from the next connection on."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from chefha_core.settings import Settings

log = logging.getLogger(__name__)


class Context:
    """An SSLContext made of PEM files, made anew when one of them has changed.

    While they do not fit together (the certificate is replaced before its key) the former context goes on.
    """

    def __init__(self, files: Sequence[Path], make: Callable[[Sequence[Path]], ssl.SSLContext]) -> None:
        self._files, self._make = files, make
        self._seen: tuple[tuple[int, int, int], ...] = ()
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._problem = ""

    def get(self) -> ssl.SSLContext:
        """The context for one connection; OSError if there has never been one that works."""
        seen = tuple(_signature(path) for path in self._files)
        with self._lock:
            if self._context is None or seen != self._seen:
                try:
                    self._context, self._seen, self._problem = self._make(self._files), seen, ""
                except OSError as error:
                    if self._context is None:
                        raise
                    self._note(str(error))
            return self._context

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("certificates in %s are not taken over: %s", self._files[0].parent, problem)
        self._problem = problem


def _signature(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def server_context(settings: Settings) -> Context:
    """For who serves with this node's certificate."""
    folder = Path(settings.tls.directory)
    return Context((folder / "server.crt", folder / "server.key"), _server)


def client_context(settings: Settings) -> Context:
    """For who asks a member and trusts the cluster's authorities only; nothing is shown."""
    return Context((Path(settings.tls.directory) / "ca.crt",), _client)


def _server(files: Sequence[Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # each connection carries one question
    context.load_cert_chain(files[0], files[1])
    return context


def _client(files: Sequence[Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks names and addresses
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(files[0])
    return context
