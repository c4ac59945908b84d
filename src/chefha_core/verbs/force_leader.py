"""force-leader: this node becomes the leader where there is none. The verb only asks (key ``force``, on a lease, so
that it is void when the verb is gone); leaderl on this node takes the key, as it does after an election.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

from chefha_core import codec
from chefha_core.model import EtcdView, LeaderState, PgState, Position
from chefha_core.parts.etcd import Compare, Delete, EtcdClient, EtcdError, Put
from chefha_core.plan.election import who_has_more
from chefha_core.plan.timing import timing
from chefha_core.settings import Settings
from chefha_core.verbs.member import converge
from chefha_core.verbs.reach import PATIENCE, VerbError, etcd_client, leaderl_status
from chefha_core.verbs.steps import OnStep, Steps, nobody_looks

STEPS = ("nobody leads", "asked for", "this node leads")
#: seconds between two looks
LOOK = 0.1
#: seconds by which a request outlives the verb's deadline
LIFE = 10


def force_leader(
    settings: Settings,
    name: str,
    accept_data_loss: bool = False,
    timeout: float = 60.0,
    on_step: OnStep = nobody_looks,
) -> dict[str, Any]:
    """Make ``name`` lead without an election, within ``timeout`` seconds; VerbError, and then nothing has changed."""
    client = etcd_client(settings, name, PATIENCE)
    steps = Steps(STEPS, on_step)
    try:
        with steps.step(STEPS[0]):
            view = nobody_leads(client, settings, name)
            if refusal := why_not(view, name, _own_position(settings), accept_data_loss):
                raise VerbError(f"force-leader: {refusal}")
        with steps.step(STEPS[1]):
            lease = ask(client, view, name, accept_data_loss, timeout)
        with steps.step(STEPS[2]):
            after = await_leader(client, name, lease, timeout, "force-leader")
    except (EtcdError, codec.DamagedKey) as error:
        raise VerbError(
            f"force-leader: etcd does not answer with a quorum ({error}), so nothing was changed; on the only node "
            "that is left: chef-backend-ctl bootstrap --quorum-loss-recovery"
        ) from error
    finally:
        client.close()
    leader = after.leader
    return {"leader": name, "epoch": leader.epoch if leader else 0, "seconds": steps.seconds, "steps": steps.rows}


def why_not(view: EtcdView, name: str, position: Position | None, accept_data_loss: bool) -> str:
    """Why ``name``, whose log ends at ``position``, is not made the leader; "" if it is. Pure."""
    if view.config is None:
        return "etcd knows no cluster; make one with: chef-backend-ctl bootstrap"
    if name in view.removed:
        return f"{name} was removed from the cluster; let it in again with: chef-backend-ctl join-cluster --recovery"
    further = "" if accept_data_loss else who_has_more(view, name, position)
    if further:
        return (
            f"the data of {name} are older than another member's ({further}); force that one, or give "
            "--accept-data-loss to lose what this node lacks"
        )
    return ""


def nobody_leads(client: EtcdClient, settings: Settings, name: str) -> EtcdView:
    """Look for as long as a leader may be silent; what etcd has then. VerbError if somebody leads, EtcdError."""
    end, view = time.monotonic() + timing(settings).stale_after, None
    while True:
        before, view = view, codec.view(client.range(), time.monotonic(), view)
        key = view.leader
        if key is None or key.state is LeaderState.RELEASING:
            return view
        if before is not None and before.leader_revision != view.leader_revision:
            who = "this node" if key.name == name else key.name
            raise VerbError(
                f"force-leader: {who} is the leader ({key.state}, epoch {key.epoch}); for another one use: "
                "chef-backend-ctl promote NODE"
            )
        if time.monotonic() > end:
            return view
        time.sleep(LOOK)


def _own_position(settings: Settings) -> Position | None:
    """Where this node's log ends, None where that is not known before PostgreSQL runs. VerbError without data."""
    said = leaderl_status()
    if said.get("pg") == PgState.EMPTY:
        raise VerbError(f"force-leader: there are no data on this node ({settings.postgresql.data_dir}) to lead with")
    position = said.get("position")
    return Position(**position) if position else None


def ask(
    client: EtcdClient, view: EtcdView, name: str, accept_data_loss: bool, timeout: float, also: tuple[Put, ...] = ()
) -> int:
    """Write the request, unless somebody leads by now; the lease on which it lives. VerbError, EtcdError."""
    lease = client.lease_grant(math.ceil(timeout) + LIFE)
    epoch = max(view.leader.epoch if view.leader else 0, view.last_epoch)
    request = {"to": name, "by": name, "epoch": epoch, "accept_data_loss": accept_data_loss}
    revision = view.leader_revision
    unchanged = Compare.mod_revision("leader", revision) if revision else Compare.absent("leader")
    if not client.txn([unchanged], [Put("force", json.dumps(request), lease), *also, Delete("intent")]).succeeded:
        raise VerbError("force-leader: the leader key has changed at this moment; look at cluster-status, try again")
    return lease


def await_leader(client: EtcdClient, name: str, lease: int, timeout: float, asked: str) -> EtcdView:
    """Wait until ``name`` leads and takes writes; then, or in vain, the request (its ``lease``, 0 for none) is void.
    VerbError."""
    end, view = time.monotonic() + timeout, None
    try:
        while time.monotonic() < end:
            time.sleep(LOOK)
            try:
                view = codec.view(client.range(), time.monotonic(), view)
            except EtcdError:
                continue  # the deadline ends it
            key = view.leader
            if key and key.name == name and key.state is LeaderState.LEADING:
                converge(0, max(LOOK, end - time.monotonic()))  # what the key says may be older than PostgreSQL's end
                return view
    finally:
        if lease:
            _void(client, lease)
    reason = leaderl_status().get("reason", "no reason given")
    who = f"the key is {view.leader.name}'s" if view and view.leader else "there is no leader key"
    raise VerbError(f"{asked}: this node does not lead after {timeout:g} s: {reason}; {who}")


def _void(client: EtcdClient, lease: int) -> None:
    try:
        client.lease_revoke(lease)
    except EtcdError:
        return  # it ends by itself
