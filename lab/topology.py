"""Which machines the lab knows, and where. Everything that counts or names machines reads it from here."""

from __future__ import annotations

import os
from dataclasses import dataclass

# Labs side by side on one machine: CHEFHA_LAB=1 to 9 is another one, with its own names, network and addresses.
NUMBER = int(os.environ.get("CHEFHA_LAB", "0"))
LABEL = f"chefha.lab{NUMBER or ''}"
NETWORK = f"chefha{NUMBER or ''}"
HOSTS = f"10.213.{77 + NUMBER}."
SUBNET = f"{HOSTS}0/24"
GATEWAY = f"{HOSTS}1"
PREFIX6 = f"fd00:c4ef:{10 + NUMBER:x}::"
VIP = f"{HOSTS}100"
INTERFACE = "eth0"


@dataclass(frozen=True)
class Node:
    """A machine of the lab: `services` are the units enabled on it from the start."""

    name: str
    address: str
    services: tuple[str, ...] = ()

    @property
    def container(self) -> str:
        return f"{NETWORK}-{self.name}"

    @property
    def address6(self) -> str:
        """Its IPv6 address ends in the digits that the other one ends in."""
        return PREFIX6 + self.address.rpartition(".")[2]


MASTER = Node("master", f"{HOSTS}10", ("salt-master.service", "salt-minion.service"))
BACKENDS = tuple(Node(f"be{i}", f"{HOSTS}1{i}", ("salt-minion.service",)) for i in (1, 2, 3))
FRONTENDS = tuple(Node(f"fe{i}", f"{HOSTS}3{i}", ("salt-minion.service",)) for i in (1, 2))
CLIENT = Node("client", f"{HOSTS}20")
WATCH = Node("watch", f"{HOSTS}21")
# Every machine there may be; which of them a lab has, its stack says (stack.py).
NODES = (MASTER, *BACKENDS, *FRONTENDS, CLIENT, WATCH)
BY_NAME = {node.name: node for node in NODES}


def addresses(nodes: tuple[Node, ...]) -> dict[str, str]:
    """Name and address of each, as the pillar wants them."""
    return {node.name: node.address for node in nodes}
