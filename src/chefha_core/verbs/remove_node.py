"""remove-node: a member that is gone for good is taken out of the cluster, so that nothing is kept for it.

Key ``removed/NODE`` is the mark: the leader keeps no slot for that member, its own leaderl does nothing should it come
back, and who looks at the cluster is told. The mark goes when a machine joins under that name. The rule that two of
three decide stays as it is (decision 5): the missing one counts as one that does not stand.
"""

from __future__ import annotations

import datetime
import json
import time
from typing import Any

from chefha_core import codec
from chefha_core.layout.etcd import peer_url
from chefha_core.leaderl.client import Way
from chefha_core.parts.etcd import Delete, EtcdClient, EtcdError, Put
from chefha_core.parts.etcd_members import confirmed_members, remove_member
from chefha_core.parts.search import SearchClient, SearchError
from chefha_core.settings import Settings
from chefha_core.verbs.cluster_status import fetch
from chefha_core.verbs.etcd_access import root_client
from chefha_core.verbs.quorum_loss import listens
from chefha_core.verbs.reach import PATIENCE, VerbError, etcd_client
from chefha_core.verbs.steps import OnStep, Steps, nobody_looks

STEPS = (
    "it reports no more",
    "marked as removed",
    "struck off etcd's members",
    "the leader keeps no log for it",
    "search does without its vote",
)
#: seconds until the leader has dropped the slot, and until search has a majority without it
DROPPED, EXCLUDED = 30.0, 15.0
#: seconds that etcd may take, over a report's life, to drop it; a new leader of etcd begins its lease again
EXPIRY = 10.0
LOOK = 0.3


def remove_node(
    settings: Settings, name: str, node: str, timeout: float = DROPPED, on_step: OnStep = nobody_looks
) -> dict[str, Any]:
    """Take ``node`` (name or address) out; VerbError. What was done already is done again without harm."""
    member = next((n for n, address in settings.members.items() if node in (n, address)), node)
    if refusal := why_not(settings, name, member):
        raise VerbError(f"remove-node {node}: {refusal}")
    steps = Steps(STEPS, on_step)
    client = etcd_client(settings, name, PATIENCE)
    try:
        with steps.step(STEPS[0]):
            _await_silence(client, settings, member)
        with steps.step(STEPS[1]):
            _mark(client, name, member)
        with steps.step(STEPS[2]):
            struck_off = _strike_off(settings, name, member)
        with steps.step(STEPS[3]):
            _await_slot(client, settings, member, timeout)
        with steps.step(STEPS[4]):
            search = _exclude(settings, name, member)
    except (EtcdError, codec.DamagedKey) as error:
        raise VerbError(
            f"remove-node {node}: etcd does not answer with a quorum ({error}); bring it back, then repeat this; on "
            "the only node that is left: chef-backend-ctl bootstrap --quorum-loss-recovery"
        ) from error
    finally:
        client.close()
    return {"removed": member, "guid": struck_off, "search": search, "seconds": steps.seconds, "steps": steps.rows}


def why_not(settings: Settings, name: str, node: str) -> str:
    """Why ``node`` is not removed by ``name``, "" if it is."""
    if node not in settings.members:
        return f"no such member; the cluster has {', '.join(settings.members)}"
    if node == name:
        return "that is this node; run it on another one"
    address = settings.members[node]
    services = {
        "etcd": settings.etcd.peer_port,
        "leaderl": settings.leaderl.http_port,
        "PostgreSQL": settings.postgresql.port,
        "search": settings.search.port,
    }
    running = [f"{what} ({address}:{port})" for what, port in services.items() if listens(address, port)]
    if running:
        return f"it is still running: {', '.join(running)} answers; only a node that is off for good is removed"
    return ""


def _await_silence(client: EtcdClient, settings: Settings, member: str) -> None:
    """Until the report that its leaderl keeps on a lease has run out: one that is only cut off from here goes on."""
    end = time.monotonic() + settings.report_life + EXPIRY
    while member in codec.view(client.range(), time.monotonic()).members:
        if time.monotonic() > end:
            raise VerbError(
                f"remove-node {member}: it is still running: it reports to etcd, though it does not answer from here; "
                "only a node that is off for good is removed"
            )
        time.sleep(LOOK)


def _mark(client: EtcdClient, name: str, member: str) -> None:
    view = codec.view(client.range(), time.monotonic())
    if view.config is None:
        raise VerbError(f"remove-node {member}: etcd knows no cluster")
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    keys = [Delete(f"{folder}/{member}") for folder in ("members", "candidates", "switches")]
    client.txn([], [Put(f"removed/{member}", json.dumps({"by": name, "at": at})), *keys])


def _strike_off(settings: Settings, name: str, member: str) -> str:
    """Its identity in etcd, "" if it had none."""
    if settings.etcd_endpoints:
        return ""
    client = root_client(settings, name, PATIENCE)
    try:
        own = peer_url(settings, member)
        found = [one for one in confirmed_members(client) if one.name == member or own in one.peer_urls]
        for one in found:
            remove_member(client, one.id_hex)
        return ", ".join(one.id_hex for one in found)
    finally:
        client.close()


def _await_slot(client: EtcdClient, settings: Settings, member: str, timeout: float) -> None:
    """Until the leader has no slot for it any more. Where nobody leads, the next leader makes none."""
    way, end = Way.of(settings), time.monotonic() + timeout
    while (leader := codec.view(client.range(), time.monotonic()).leader) is not None and leader.name != member:
        try:
            if member not in fetch(way, leader.name, PATIENCE).get("slots", ()):
                return
            problem = "it has the slot still"
        except (OSError, ValueError) as error:
            problem = str(error)
        if time.monotonic() > end:
            raise VerbError(f"remove-node {member}: after {timeout:g} s {leader.name}: {problem}; repeat this later")
        time.sleep(LOOK)


def _exclude(settings: Settings, name: str, member: str) -> str:
    """Take its vote from search, so that it does not count for a majority; what was done."""
    if settings.search.flavor == "none":
        return "there is no search"
    problems = []
    for other in (name, *(n for n in settings.members if n not in (name, member))):
        client = SearchClient(settings.members[other], settings.search.port, EXCLUDED)
        try:
            client.exclude_voter(member)
            return "its vote does not count any more"
        except SearchError as error:
            problems.append(str(error))
        finally:
            client.close()
    raise VerbError(f"remove-node {member}: it is removed, but search counts its vote still: {'; '.join(problems)}")
