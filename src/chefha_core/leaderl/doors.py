"""Who may ask leaderl what over the network: a pure function of the settings and of where a question comes from."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from chefha_core.settings import Settings


class Client(StrEnum):
    """What the address of who asks makes them."""

    MEMBER = "member"
    READER = "reader"
    FRONTEND = "frontend"
    STRANGER = "stranger"


_READS = frozenset({"GET /leader", "GET /status", "GET /metrics"})
#: what each may ask; whoever may ask nothing is hung up on
MAY: dict[Client, frozenset[str]] = {
    Client.MEMBER: _READS | {"POST /ask"},
    Client.READER: _READS,
    Client.FRONTEND: frozenset({"GET /leader"}),
    Client.STRANGER: frozenset(),
}


@dataclass(frozen=True)
class Doors:
    """The clients of one cluster."""

    members: frozenset[str]
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    #: front ends whose own HAProxy asks who leads, and knows no TLS
    frontends: frozenset[str]
    tls: bool

    @classmethod
    def of(cls, settings: Settings) -> Doors:
        """As the settings have it; this machine itself always reads."""
        own = ("127.0.0.0/8", f"{settings.vip}/32")  # who asks the VIP on the machine that has it comes from there
        networks = tuple(ipaddress.ip_network(text) for text in (*own, *settings.leaderl.http_networks))
        fronts = frozenset(settings.frontends.values()) if settings.frontend.way == "members" else frozenset()
        return cls(frozenset(settings.members.values()), networks, fronts, settings.tls.enabled)

    def client(self, address: str) -> Client:
        """Who it is that comes from an address."""
        if address in self.members:
            return Client.MEMBER
        if any(ipaddress.ip_address(address) in network for network in self.networks):
            return Client.READER
        return Client.FRONTEND if address in self.frontends else Client.STRANGER

    def may(self, address: str, encrypted: bool) -> frozenset[str]:
        """What may be asked from an address, over TLS or without. Without, it is the front ends' one question."""
        if encrypted or not self.tls:
            return MAY[self.client(address)]
        return MAY[Client.FRONTEND] if address in self.frontends else MAY[Client.STRANGER]
