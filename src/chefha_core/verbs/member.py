"""Verbs about this one member: converge, and whether it is well."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chefha_core.parts.etcd import EtcdError, EtcdRefused
from chefha_core.parts.etcd_http import PERMISSION_DENIED
from chefha_core.parts.search import SearchClient, SearchError
from chefha_core.settings import Settings
from chefha_core.verbs.reach import VerbError, etcd_client, leaderl_converge, leaderl_status

WELL = ("leader", "follower")
#: why this member's etcd does not even start, as etcd_formation wrote it
FORMATION = Path("/run/chefha/etcd-formation")


def converge(epoch: int, timeout: float, path: Path | None = None) -> dict[str, Any]:
    """leaderl brings this node to the role that etcd gives it. An epoch that is over, or 0, is only a hint to look."""
    answer = leaderl_converge(epoch, timeout, path)
    if not answer.get("converged", False):
        role, reason = answer.get("role", "?"), answer.get("reason", "no reason given")
        raise VerbError(f"converge: this node is still {role} after {timeout:g} s: {reason}")
    return answer


def etcd_problem(settings: Settings, name: str, timeout: float = 2.0) -> str:
    """Why etcd does not serve this node, "" if it does. Where chefha sets up its users that is another question."""
    client = etcd_client(settings, name, timeout, user=None if settings.etcd_endpoints else "")
    try:
        client.range()
        return ""
    except EtcdError as error:
        if isinstance(error, EtcdRefused) and error.code == PERMISSION_DENIED and not settings.etcd_endpoints:
            return ""  # said to whoever is nobody, and only after a quorum was asked
        return f"etcd does not answer with a quorum: {error}{_formation_problem()}"
    except OSError as error:  # certificates that are not there yet
        return f"etcd cannot be asked: {error}"
    finally:
        client.close()


def _formation_problem() -> str:
    try:
        return f"; this member's etcd does not start: {FORMATION.read_text(encoding='utf-8').strip()}"
    except OSError:
        return ""


def member_problem(timeout: float = 2.0, path: Path | None = None) -> str:
    """Why this node is neither the leader nor a streaming follower, "" if it is."""
    try:
        said = leaderl_status(timeout, path)
    except VerbError as error:
        return str(error)
    streams = said.get("role") != "follower" or said.get("streaming")
    if said.get("role") in WELL and streams and not said.get("job"):
        return ""
    return f"this node is {said.get('role', '?')}: {said.get('reason', '')}"


def search_problem(settings: Settings, name: str, timeout: float = 2.0) -> str:
    """Why the search of the member ``name`` is in no cluster with a majority, "" if it is, or without search."""
    if settings.search.flavor == "none":
        return ""
    client = SearchClient(settings.members[name], settings.search.port, timeout)
    try:
        seen = client.nodes()
    except SearchError as error:
        return f"{error}; look there at: systemctl status chefha-search"
    finally:
        client.close()
    there = [member for member in settings.members if member in seen.names]
    if not seen.master or 2 * len(there) <= len(settings.members):
        return f"search on {name} sees {', '.join(there) or 'nobody'}, and {seen.master or 'nobody'} as master"
    return ""


def wait_until_well(problem: Callable[[], str], timeout: float) -> float:
    """Ask every half second until there is no problem; the seconds it took, VerbError with the last one if in vain."""
    began = time.monotonic()
    while last := problem():
        if time.monotonic() - began > timeout:
            raise VerbError(f"after {timeout:g} s: {last}")
        time.sleep(0.5)
    return round(time.monotonic() - began, 1)
