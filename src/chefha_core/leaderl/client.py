"""One question to another member's leaderl: a connection of its own, one deadline over all of it."""

from __future__ import annotations

import http.client
import socket
import time
from dataclasses import dataclass

from chefha_core.parts.tls import Context, client_context
from chefha_core.settings import Settings


@dataclass(frozen=True)
class Way:
    """How the members' leaderl are reached."""

    settings: Settings
    tls: Context | None

    @classmethod
    def of(cls, settings: Settings) -> Way:
        """As the settings have it: where TLS is on, a member has to prove that it has its address."""
        return cls(settings, client_context(settings) if settings.tls.enabled else None)

    def ask(self, name: str, method: str, path: str, deadline: float, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and content of the answer of the member ``name``; OSError if there is none within ``deadline``."""
        address, port = str(self.settings.members[name]), self.settings.leaderl.http_port
        until = time.monotonic() + deadline
        # A connection per question: a kept one could lead to a machine that is no longer there.
        sock = socket.create_connection((address, port), max(0.001, deadline))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                _hurry(sock, until)
                sock = self.tls.get().wrap_socket(sock, server_hostname=address)
            _hurry(sock, until)
            connection = http.client.HTTPConnection(address, port)
            connection.sock = sock
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except TimeoutError:
            raise TimeoutError(f"no answer within {deadline:.1f} s") from None
        except http.client.HTTPException as error:
            raise ConnectionError(f"no HTTP answer from {name}: {error or type(error).__name__}") from None
        finally:
            sock.close()


def _hurry(sock: socket.socket, until: float) -> None:
    sock.settimeout(max(0.001, until - time.monotonic()))
