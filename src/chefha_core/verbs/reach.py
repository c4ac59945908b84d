"""How the verbs reach the two they talk to: the cluster's etcd, and leaderl on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chefha_core.parts.etcd import EtcdClient, TlsFiles
from chefha_core.parts.etcd_access import member_user
from chefha_core.settings import Settings

#: seconds that a verb gives etcd, or another member's leaderl, to answer: leaderl itself cannot afford more than its
#: `request_timeout_seconds`, somebody who waits for a verb can, and a busy machine needs more at times
PATIENCE = 3.0


class VerbError(Exception):
    """A verb was refused or failed; the text is one sentence: what was asked, what stood in the way, what to do."""


def etcd_client(
    settings: Settings, name: str, timeout: float, *, user: str | None = None, password: str = "", former: str = ""
) -> EtcdClient:
    """A client of the cluster's etcd, this machine's member first; as the members' user or ``user`` ("": nobody)."""
    if user is None:
        user, password = member_user(settings), settings.secrets.etcd_password
    return EtcdClient(
        settings.endpoints(name),
        prefix=f"/chefha/{settings.cluster}/",
        timeout=timeout,
        tls=tls_files(settings),
        user=user,
        password=password,
        former=former,
    )


def tls_files(settings: Settings) -> TlsFiles | None:
    """Where root finds the certificates that the states wrote; None without TLS."""
    if not settings.tls.enabled:
        return None
    folder = settings.tls.directory
    return TlsFiles(f"{folder}/ca.crt", f"{folder}/server.crt", f"{folder}/server.key")


def leaderl_status(timeout: float = 1.0, path: Path | None = None) -> dict[str, Any]:
    """What leaderl on this machine says of itself; VerbError if it does not answer."""
    return _ask("GET", "/status", None, timeout, path)


def leaderl_converge(epoch: int, timeout: float, path: Path | None = None) -> dict[str, Any]:
    """Ask leaderl to bring this node to the role that etcd gives it; returns when that is so, or in vain."""
    return _ask("POST", "/converge", {"epoch": epoch, "timeout": timeout}, timeout + 2.0, path)


def _ask(method: str, url: str, body: dict[str, Any] | None, timeout: float, path: Path | None) -> dict[str, Any]:
    from chefha_core.leaderl.http import SOCKET, ask_local  # most verbs do without, and are the faster for it

    try:
        answer = ask_local(method, url, body, timeout, path or SOCKET)
    except TimeoutError:
        raise VerbError(f"leaderl on this node did not answer {method} {url} within {timeout:g} s") from None
    except (OSError, ValueError, IndexError) as error:
        reason = f"leaderl on this node does not answer ({error})"
        raise VerbError(f"{reason}; look at: systemctl status chefha-leaderl") from None
    if "error" in answer:
        raise VerbError(f"leaderl on this node refused {method} {url}: {answer['error']}")
    return answer
