"""Restarting a service of every member without ever missing two: the members wait for each other.

A key in etcd says whose turn it is. It lives on a lease, so a member that is lost in its turn holds up nobody for long.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from chefha_core.layout.etcd import peer_url
from chefha_core.parts.etcd import Compare, EtcdClient, EtcdError, EtcdUnreachable, Put
from chefha_core.parts.etcd_members import heard_at
from chefha_core.settings import Settings
from chefha_core.verbs.etcd_access import root_client
from chefha_core.verbs.member import search_problem
from chefha_core.verbs.reach import VerbError, etcd_client, tls_files
from chefha_core.verbs.systemd import systemctl

#: the key, and the seconds for which it outlives whoever has it
TURN, LIFE = "turn", 120
#: seconds between two looks, and for one question
PAUSE, DEADLINE = 0.5, 5.0

#: why a service is not well, "" if it is
Problem = Callable[[Settings, str], str]


def own_etcd(settings: Settings, name: str) -> str:
    """Why this member's etcd does not serve, "" if it does."""
    return _etcd(settings, name, settings.endpoints(name)[:1])


def other_etcds(settings: Settings, name: str) -> str:
    """Why another member's etcd does not serve, "" if they all do; one that was removed needs not."""
    listed = heard_at(peer_url(settings, name), tls_files(settings), DEADLINE).members
    own, *others = settings.endpoints(name)
    known = {url for member in listed for url in member.client_urls}
    return _etcd(settings, name, tuple(other for other in others if other in known or own not in known))


def _etcd(settings: Settings, name: str, endpoints: tuple[str, ...]) -> str:
    client = etcd_client(settings, name, DEADLINE, user="")  # whoever is refused has been answered
    try:
        health = [one for one in client.healthy_endpoints() if one.endpoint in endpoints]
    finally:
        client.close()
    return "; ".join(f"etcd at {one.endpoint}: {one.problem}" for one in health if not one.ok)


def other_searches(settings: Settings, name: str) -> str:
    """Why another member's search is in no cluster with a majority, "" if all are."""
    problems = (search_problem(settings, other, DEADLINE) for other in settings.members if other != name)
    return "; ".join(problem for problem in problems if problem)


#: unit: why the other members cannot spare ours now, and why ours is not well
WELL: dict[str, tuple[Problem, Problem]] = {
    "chefha-etcd.service": (other_etcds, own_etcd),
    "chefha-search.service": (other_searches, search_problem),
}


def restart_in_turn(settings: Settings, name: str, unit: str, timeout: float) -> str:
    """Restart ``unit`` in this member's turn, and wait until it is well again; what happened. VerbError.

    Without an etcd that answers there is nobody to wait for and nothing to lose: it is restarted at once.
    """
    if unit not in WELL:
        raise VerbError(f"{unit} cannot be restarted in turn; known are {', '.join(sorted(WELL))}")
    others, own = WELL[unit]

    def connect() -> EtcdClient:
        return root_client(settings, name, DEADLINE)  # root, for the members' user may be about to change

    try:
        client = connect()
    except EtcdUnreachable as error:
        systemctl_restart(unit)
        return f"restarted at once, for etcd does not serve anyway: {error}"
    except EtcdError as error:
        raise VerbError(f"{unit} is not restarted: {error}") from None
    try:
        in_turn(
            client,
            f"{unit} on {name}",
            restart=lambda: systemctl_restart(unit),
            others=lambda: others(settings, name),
            own=lambda: own(settings, name),
            timeout=timeout,
            connect=connect,
        )
    finally:
        client.close()
    return "restarted in turn"


def in_turn(
    client: EtcdClient,
    what: str,
    *,
    restart: Callable[[], None],
    others: Callable[[], str],
    own: Callable[[], str],
    timeout: float,
    connect: Callable[[], EtcdClient] | None = None,
) -> None:
    """``restart`` while nobody else has the turn and ``others`` has no problem; ends when ``own`` has none. VerbError
    after ``timeout`` seconds; then the turn is over all the same, and whoever is next finds the others not well.

    ``connect`` makes another client: root's password may change while this member waits, as one before it has its turn.
    """
    end = time.monotonic() + timeout
    turn = _Turn(client, what, connect)
    try:
        _until(turn.wait, end, f"{what} is not restarted")
        _until(lambda: turn.keep() or others(), end, f"{what} is not restarted")
        restart()
        _until(lambda: own() or turn.keep(), end, f"{what} was restarted and is not well")
    finally:
        turn.give_back()


class _Turn:
    """The key, as one member waits for it or has it."""

    def __init__(self, client: EtcdClient, what: str, connect: Callable[[], EtcdClient] | None) -> None:
        self._client, self._connect = client, connect
        self._own: EtcdClient | None = None  # made here, so closed here
        self._value = json.dumps({"what": what, "ticket": secrets.token_hex(8)})
        self._lease = 0

    def wait(self) -> str:
        """Try to take it: whose turn it is, "" if it is this member's."""
        try:
            if not self._lease or not self._client.lease_keepalive(self._lease):
                self._lease = self._client.lease_grant(LIFE)
            if self._client.txn([Compare.absent(TURN)], [Put(TURN, self._value, self._lease)]).succeeded:
                return ""
            holder = self._client.get(TURN)
        except EtcdError as error:
            return self._afresh(error)
        if holder is None:
            return "the turn has just become free"
        return "" if holder.value == self._value else f"it is the turn of {_what(holder.value)}"

    def keep(self) -> str:
        """Why it is lost, "" if it is kept."""
        try:
            return "" if self._client.lease_keepalive(self._lease) else "its turn was too long"
        except EtcdError as error:
            return self._afresh(error)

    def _afresh(self, error: EtcdError) -> str:
        """Go on with another client; what was wrong with this one."""
        if self._connect:
            with suppress(EtcdError, VerbError):
                fresh = self._connect()
                self._close()
                self._client = self._own = fresh
        return str(error)

    def _close(self) -> None:
        if self._own:
            self._own.close()

    def give_back(self) -> None:
        """Let the next one have it now; else the lease does."""
        with suppress(EtcdError):
            if self._lease:
                self._client.lease_revoke(self._lease)
        self._close()


def _what(value: str) -> str:
    try:
        return str(json.loads(value)["what"])
    except (ValueError, KeyError, TypeError):
        return repr(value[:80])


def _until(problem: Callable[[], str], end: float, what: str) -> None:
    while last := problem():
        if time.monotonic() > end:
            raise VerbError(f"{what}: {last}")
        time.sleep(PAUSE)


def systemctl_restart(unit: str) -> None:
    """systemd reads its units again and restarts this one. VerbError."""
    systemctl("daemon-reload")
    systemctl("restart", unit)
