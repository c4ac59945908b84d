"""Which machines the lab has, and where. Everything that counts or names machines reads it from here."""

from __future__ import annotations

from dataclasses import dataclass

LABEL = "chefha.lab"
NETWORK = "chefha"
SUBNET = "10.213.77.0/24"
GATEWAY = "10.213.77.1"
VIP = "10.213.77.100"
INTERFACE = "eth0"


@dataclass(frozen=True)
class Node:
    """A machine of the lab: `services` are the units enabled on it from the start."""

    name: str
    address: str
    services: tuple[str, ...] = ()

    @property
    def container(self) -> str:
        return f"chefha-{self.name}"


MASTER = Node("master", "10.213.77.10", ("salt-master.service", "salt-minion.service"))
BACKENDS = tuple(Node(f"be{i}", f"10.213.77.1{i}", ("salt-minion.service",)) for i in (1, 2, 3))
CLIENT = Node("client", "10.213.77.20")
WATCH = Node("watch", "10.213.77.21")
NODES = (MASTER, *BACKENDS, CLIENT, WATCH)
MINIONS = (MASTER, *BACKENDS)
BY_NAME = {node.name: node for node in NODES}


def members() -> dict[str, str]:
    """Name and address of each backend, as the pillar wants them."""
    return {node.name: node.address for node in BACKENDS}
