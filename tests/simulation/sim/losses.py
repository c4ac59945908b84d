"""Losses for good, and what people do about them: bootstrap --quorum-loss-recovery, force-leader, remove-node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.faults import Fault
    from sim.host import Host
    from sim.world import World

#: seconds for which a leader asked for by force is asked for
LIFE = 60.0


def two_of_three_lost(world: World, host: Host, fault: Fault) -> None:
    """Both others are lost with their data; ``host`` goes on alone, and empty machines join it later."""
    if host.pg.data is None or not host.pg.data.usable or "config" not in world.etcd.kvs or world.promoted_by_hand:
        return
    if not host.up or host.frozen:  # the verb runs there
        return
    if host.pg.data.system_id != world.generation:  # what was restored is lost with the others: only people can help
        return
    for other in world.hosts.values():
        if other is not host:
            _lose(world, other, fault.seconds * (1 + world.rng.random()))
    world.etcd.members = {host.name}
    world.give_up_what_is_lost(host)
    kvs = world.etcd.kvs
    key = world.leader
    alone = {"alone": host.name} if world.durability == "quorum" else {}
    if key is not None and key.name == host.name:
        world.etcd.txn({}, alone)
    else:
        world.etcd.txn({}, alone, tuple(name for name in kvs if name.startswith("candidates/")))
        force(world, host, accept=True)


def force_leader(world: World, host: Host, fault: Fault) -> None:
    """Asked for at any time: it counts only where nobody leads."""
    if world.etcd.available:
        force(world, host, accept="accept" in fault.extra)


def force(world: World, host: Host, accept: bool) -> None:
    epoch = max((int(name[8:]) for name in world.etcd.kvs if name.startswith("history/")), default=0)
    request = {"to": host.name, "by": "operator", "epoch": epoch, "accept_data_loss": accept}
    world.etcd.txn({}, {"force": json.dumps(request)})
    world.etcd.leases["force"] = world.engine.t + LIFE


def removed_and_replaced(world: World, host: Host, fault: Fault) -> None:
    """A follower is lost, removed, and an empty machine joins under its name; only while the others have their data."""
    key = world.leader
    whole = [h for h in world.hosts.values() if h is not host and h.pg.data is not None and not h.pg.data.damaged]
    streaming = [h for h in whole if h.pg.pm is not None and h.pg.pm.up]
    if key is None or key.name == host.name or len(streaming) < 2 or not world.etcd.available:
        return
    world.wiped = True
    _lose(world, host, fault.seconds)
    world.etcd.members.discard(host.name)
    world.etcd.txn({}, {f"removed/{host.name}": "{}"}, (f"members/{host.name}", f"candidates/{host.name}"))


def _lose(world: World, host: Host, seconds: float) -> None:
    """The machine and all it has is gone; after ``seconds`` there is an empty one."""
    host.power_off()
    host.pg.data = None

    def join() -> None:
        host.power_on()
        world.etcd.members.add(host.name)
        world.etcd.txn({}, {}, (f"removed/{host.name}",))

    world.engine.at(seconds, join)
