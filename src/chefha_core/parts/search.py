"""OpenSearch or Elasticsearch on one member, over HTTP: each question with a deadline, never through a proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

#: the cluster_uuid of a node that has never been in a formed cluster
UNFORMED = "_na_"


class SearchError(Exception):
    """The engine did not answer, or refused; the text is one sentence."""


class SearchRefused(SearchError):
    """The engine answered, and the answer was no."""


@dataclass(frozen=True)
class Root:
    """What a node says of itself, also where it is in no cluster yet."""

    cluster: str
    cluster_uuid: str
    version: str

    @property
    def formed(self) -> bool:
        """Whether the node has ever been in a formed cluster."""
        return self.cluster_uuid not in ("", UNFORMED)


@dataclass(frozen=True)
class Nodes:
    """Who is in the cluster, as one node sees it."""

    names: tuple[str, ...]
    #: the elected master (cluster manager); "" while there is none
    master: str


@dataclass(frozen=True)
class SearchHealth:
    """Colour of the cluster, and how many nodes are in it."""

    status: str
    nodes: int


class SearchClient:
    """One node's HTTP port; safe to share between threads."""

    def __init__(self, address: str, port: int, deadline: float = 1.0) -> None:
        self.where = f"{address}:{port}"
        # a pool of its own knows no proxy, whatever the environment says
        self._pool = urllib3.HTTPConnectionPool(address, port, maxsize=2, timeout=urllib3.Timeout(total=deadline))

    def root(self) -> Root:
        """The node itself."""
        answer = self.get("/")
        version = answer.get("version")
        number = version.get("number", "") if isinstance(version, dict) else ""
        return Root(str(answer.get("cluster_name", "")), str(answer.get("cluster_uuid", "")), str(number))

    def health(self) -> SearchHealth:
        """The cluster as this node sees it; SearchError where it sees none, as what it saw last would be no news."""
        if not self.nodes().master:
            raise SearchError(f"search on {self.where} sees no master")
        answer = self.get("/_cluster/health?local=true")
        return SearchHealth(str(answer.get("status", "red")), int(answer.get("number_of_nodes", 0)))

    def nodes(self) -> Nodes:
        """Names and master from the node's own copy of the cluster's state, which needs no master to be read."""
        answer = self.get("/_cluster/state/master_node,nodes?local=true")
        names = {str(key): str(node.get("name", "")) for key, node in (answer.get("nodes") or {}).items()}
        return Nodes(tuple(sorted(names.values())), names.get(str(answer.get("master_node")), ""))

    def get(self, path: str) -> dict[str, Any]:
        """A JSON object."""
        return self._ask("GET", path, None)

    def put(self, path: str, body: Mapping[str, Any]) -> None:
        """Change something."""
        self._ask("PUT", path, body)

    def exclude_voter(self, name: str) -> None:
        """The node of that name, which may be gone, has no vote in elections of a master any more."""
        self._ask("POST", f"/_cluster/voting_config_exclusions?node_names={name}&timeout=10s", None)

    def include_voters(self) -> None:
        """Every node may vote again."""
        self._ask("DELETE", "/_cluster/voting_config_exclusions?wait_for_removal=false", None)

    def close(self) -> None:
        """Let the connections go."""
        self._pool.close()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        what = f"search on {self.where}, asked {method} {path.split('?')[0]},"
        try:
            answer = self._pool.urlopen(
                method,
                path,
                body=json.dumps(body).encode() if body is not None else None,
                headers={"Content-Type": "application/json"} if body is not None else {},
                retries=False,
                redirect=False,
            )
            data = json.loads(answer.data or b"{}")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise SearchError(f"search does not answer on {self.where}: {_plain(error)}") from error
        except ValueError:
            raise SearchError(f"{what} answered HTTP {answer.status} and no JSON") from None
        if not isinstance(data, dict):
            raise SearchError(f"{what} answered something else than an object")
        if answer.status >= 300:
            raise SearchRefused(f"{what} refused with HTTP {answer.status}: {_reason(data)}")
        return data


def _reason(data: Mapping[str, Any]) -> str:
    error = data.get("error")
    if isinstance(error, dict):
        return f"{error.get('type', 'error')}, {str(error.get('reason', ''))[:200]}"
    return str(error or "no reason given")[:200]


def _plain(error: Exception) -> str:
    """urllib3's nested errors in a few words."""
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        cause = error.__cause__
        return str(getattr(cause, "strerror", None) or cause or "no connection").lower()
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
        return "no connection within the deadline"
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return "connected, but no answer within the deadline"
    return str(error) or type(error).__name__
