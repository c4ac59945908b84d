"""Which machines the lab knows, and where. Everything that counts or names machines reads it from here."""

from __future__ import annotations

from dataclasses import dataclass

LABEL = "chefha.lab"
NETWORK = "chefha"
SUBNET = "10.213.77.0/24"
GATEWAY = "10.213.77.1"
PREFIX6 = "fd00:c4ef:a::"
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

    @property
    def address6(self) -> str:
        """Its IPv6 address ends in the digits that the other one ends in."""
        return PREFIX6 + self.address.rpartition(".")[2]


MASTER = Node("master", "10.213.77.10", ("salt-master.service", "salt-minion.service"))
BACKENDS = tuple(Node(f"be{i}", f"10.213.77.1{i}", ("salt-minion.service",)) for i in (1, 2, 3))
FRONTENDS = tuple(Node(f"fe{i}", f"10.213.77.3{i}", ("salt-minion.service",)) for i in (1, 2))
CLIENT = Node("client", "10.213.77.20")
WATCH = Node("watch", "10.213.77.21")
# Every machine there may be; which of them a lab has, its stack says (stack.py).
NODES = (MASTER, *BACKENDS, *FRONTENDS, CLIENT, WATCH)
BY_NAME = {node.name: node for node in NODES}


def addresses(nodes: tuple[Node, ...]) -> dict[str, str]:
    """Name and address of each, as the pillar wants them."""
    return {node.name: node.address for node in nodes}
