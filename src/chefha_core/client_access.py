"""Whether those who must log in to PostgreSQL may: ``postgresql:client_networks`` seen from one member; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from chefha_core.settings import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def shut_out(settings: Settings, interfaces: Iterable[str]) -> str:
    """Which front end or member may not log in on this machine, one sentence; "" if all may.

    ``interfaces`` are the machine's own addresses with their networks, such as 192.0.2.11/24 or
    192.0.2.11/255.255.255.0: ``samenet`` and ``samehost`` mean these.
    """
    own = [ipaddress.ip_interface(text) for text in interfaces]
    let_in = [network for word in settings.postgresql.client_networks for network in _networks(word, own)]
    machines = [("front end", name, address) for name, address in settings.frontends.items()]
    if settings.frontends:
        machines += [("member", name, address) for name, address in settings.members.items()]
    for kind, name, address in machines:
        if not any(ipaddress.ip_address(address) in network for network in let_in):
            words = ", ".join(settings.postgresql.client_networks) or "empty"
            networks = ", ".join(sorted({str(interface.network) for interface in own if not interface.is_loopback}))
            return (
                f"the {kind} {name} ({address}) may not log in to PostgreSQL on this machine: pillar "
                f"chefha:postgresql:client_networks is {words}, and the networks of this machine are "
                f"{networks or 'none'}; add {address}/32 or its network there"
            )
    return ""


def _networks(word: str, own: list[Interface]) -> list[Network]:
    if word == "all":
        return [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    if word == "samenet":
        return [interface.network for interface in own]
    if word == "samehost":
        return [ipaddress.ip_network(interface.ip) for interface in own]
    return [ipaddress.ip_network(word)]
