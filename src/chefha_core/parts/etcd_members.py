"""etcd's list of members: asked of a member that may not serve anybody yet, read for certain, changed."""

from __future__ import annotations

import json
from dataclasses import dataclass

import urllib3.exceptions as failures

from chefha_core.parts.etcd import EtcdClient, EtcdMember, EtcdUnreachable, decode_members, key_range
from chefha_core.parts.etcd_http import TlsFiles, open_pool


@dataclass(frozen=True)
class Said:
    """What came from a peer port. ``absent``: nobody is there; ``problem``: somebody is, who cannot be understood."""

    members: tuple[EtcdMember, ...] = ()
    absent: bool = False
    problem: str = ""

    @property
    def formed(self) -> bool:
        """True if it comes from an etcd that has had a quorum: only then has anybody published where it serves."""
        return any(member.client_urls for member in self.members)


def heard_at(peer_url: str, tls: TlsFiles | None, timeout: float) -> Said:
    """The members as the etcd at ``peer_url`` knows them. It needs no quorum, may lag, and asks for no user."""
    pool = open_pool(peer_url, tls)
    try:
        answer = pool.request("GET", "/members", timeout=timeout, retries=False)
        return Said(decode_members(json.loads(answer.data)))
    except (failures.NewConnectionError, failures.ConnectTimeoutError):
        return Said(absent=True)
    except (failures.HTTPError, OSError, ValueError, AttributeError, TypeError) as error:
        return Said(problem=f"{peer_url} does not answer as etcd does: {error}")
    finally:
        pool.close()


def confirmed_members(client: EtcdClient) -> tuple[EtcdMember, ...]:
    """The list as a quorum has it: a member that has just read in a linearizable way lags no more. EtcdError."""
    problem: EtcdUnreachable | None = None
    for endpoint in client.endpoints:
        try:
            client.ask_one(endpoint, "/v3/kv/range", {**key_range(client.prefix), "count_only": True})
            return decode_members(client.ask_one(endpoint, "/v3/cluster/member/list", {}).get("members", ()))
        except EtcdUnreachable as error:
            problem = EtcdUnreachable(str(error), {**(problem.reasons if problem else {}), **error.reasons})
    reasons = problem.reasons if problem else {}
    listed = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in reasons.items())
    raise EtcdUnreachable(f"no member of etcd answered with a quorum ({listed})", reasons)


def add_member(client: EtcdClient, peer_url: str, *, learner: bool = False) -> None:
    """Let a new member in, by the address where the others will find it; a ``learner`` has no vote yet. EtcdError."""
    client.call("/v3/cluster/member/add", {"peerURLs": [peer_url], "isLearner": learner})


def promote_learner(client: EtcdClient, id_hex: str) -> None:
    """Give a learner its vote; EtcdError also where it has not caught up yet."""
    client.call("/v3/cluster/member/promote", {"ID": str(int(id_hex, 16))})


def remove_member(client: EtcdClient, id_hex: str) -> None:
    """Strike a member off for good: an etcd with its data can never come back. EtcdError."""
    client.call("/v3/cluster/member/remove", {"ID": str(int(id_hex, 16))})
