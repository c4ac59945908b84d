"""What a lab is asked to be: the named stacks, and the pillar that each of them comes to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .progress import LabError
from .topology import BACKENDS, CLIENT, FRONTENDS, INTERFACE, MASTER, VIP, WATCH, Node, addresses

ARCHIVES = "/opt/search-archives"
CHECKSUMS = Path(__file__).parent / "machine/SHA256SUMS"
# As for chefha: what front ends accept, and what is newest.
SEARCH_VERSIONS = {
    ("opensearch", True): "1.3.20",
    ("opensearch", False): "3.7.0",
    ("elasticsearch", True): "7.17.9",
    ("elasticsearch", False): "7.17.9",
}
SEARCH_FLAVORS = ("opensearch", "elasticsearch", "none")
HEAP_MB = 384
#: Three Javas start on two cores, again and again: the second compiler would cost a quarter of each start.
JAVA_OPTS = ["-XX:TieredStopAtLevel=1"]
CHEF_SERVER_VERSION = "15.10.117"
#: of the stand-in, which front ends from the repository can be upgraded to
NEXT_CHEF_SERVER_VERSION = "15.10.118"
SHOP_PORT = 8080
#: a secret that is passed on to chef-server.rb as it is; nobody logs in with it
BIND_PASSWORD = "bind-password-of-the-lab"
CLUSTER = "lab"


@dataclass(frozen=True)
class Stack:
    """Parts and machines of a lab.

    `packaged`: what comes from the lab's own Debian repository (search, frontend) instead of from a file. `overrides`:
    (path below `chefha:` with colons, value) pairs for the pillar.
    """

    name: str
    postgresql: int
    search: str
    frontends: bool
    profile: str = "fast"
    packaged: tuple[str, ...] = ()
    overrides: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def search_version(self) -> str:
        """Version of the search engine; empty without one."""
        return SEARCH_VERSIONS.get((self.search, self.frontends), "")

    @property
    def minions(self) -> tuple[Node, ...]:
        """The machines that Salt lays out."""
        return (MASTER, *BACKENDS, *(FRONTENDS if self.frontends else ()))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All machines of this stack."""
        return (*self.minions, CLIENT, WATCH)

    def label(self) -> dict[str, Any]:
        """As plain data, in the form it comes back from JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_label(cls, label: Mapping[str, Any]) -> Stack:
        """The reverse of label(); LabError if it is of a lab that an older chefha made."""
        try:
            overrides = tuple((str(path), value) for path, value in label["overrides"])
            return cls(**{**label, "packaged": tuple(label["packaged"]), "overrides": overrides})
        except (KeyError, TypeError):
            raise LabError("the lab that is up was made by another version: run `python -m lab down`") from None


STACKS = {
    stack.name: stack
    for stack in (
        Stack("chef", 13, "opensearch", frontends=True),  # what Chef Infra Server accepts
        Stack("newest", 17, "opensearch", frontends=False, packaged=("search",)),
        Stack("elasticsearch", 13, "elasticsearch", frontends=True, packaged=("search", "frontend")),
        Stack("bare", 17, "none", frontends=False),  # for measuring failovers of PostgreSQL alone
    )
}
DEFAULT = STACKS["chef"]


def parse_override(text: str) -> tuple[str, Any]:
    """`a:b=c` as (path, value); the value is JSON if it reads as such, else text. LabError if there is no `=`."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise LabError(f"--set {text}: expected PATH=VALUE, such as postgresql:max_connections=100")
    try:
        return path, json.loads(value)
    except ValueError:
        return path, value


def pillar(stack: Stack, repository: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """The pillar tree of the lab's cluster.

    `repository`: line and key of the lab's own (repository, repository_key); `more`: further branches (wheel, frontend,
    secrets, …).
    """
    # The probes write, search and ask who leads from where no front end is.
    probes = [f"{node.address}/32" for node in (CLIENT, WATCH)]
    tree: dict[str, Any] = {
        "cluster": CLUSTER,
        "vip": VIP,
        "vip_interface": INTERFACE,
        "members": addresses(BACKENDS),
        "profile": stack.profile,
        "postgresql": {"version": stack.postgresql},
        "search": _search(stack, repository or {}),
        "leaderl": {"http_networks": probes},
        "firewall": {"clients": probes},
        **more,
    }
    if stack.frontends:
        tree["frontends"] = addresses(FRONTENDS)
        tree["firewall"]["frontend_ports"] = ["22", "80", "443", str(SHOP_PORT)]
    for path, value in stack.overrides:
        _override(tree, path, value)
    return {"chefha": tree}


def _search(stack: Stack, repository: Mapping[str, str]) -> dict[str, Any]:
    if stack.search == "none":
        return {"flavor": "none"}
    archive = f"{stack.search}-{stack.search_version}.zip"
    sums = {file: total for total, file in (line.split() for line in CHECKSUMS.read_text().splitlines())}
    source = {"archive": f"{ARCHIVES}/{archive}", "checksum": f"sha256={sums[archive]}"}
    if "search" in stack.packaged:
        source = {"package": stack.search, **repository}
    return {
        "flavor": stack.search,
        "version": stack.search_version,
        "source": source,
        "heap_mb": HEAP_MB,
        "java_opts": JAVA_OPTS,
    }


def _override(tree: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(":")
    place = tree
    for name in above:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise LabError(f"--set {path}: {name} is a value, not a branch of the pillar")
    place[last] = value
