"""One history: a world, a script of faults, and the end that must come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from chefha_core.model import LeaderState
from sim import losses
from sim.faults import Fault, strike
from sim.world import World


def live(seed: int, script: Sequence[Fault], **kinds: Any) -> World:
    """Live through the script and settle; Violation if an invariant breaks on the way."""
    world = World(seed, **kinds)
    world.engine.run(8.0 if kinds.get("fresh") and world.rng.random() < 0.5 else 2.0)
    for fault in script:
        world.engine.run(world.engine.t + fault.after)
        strike(world, fault)
        world.check()
    world.engine.run(
        world.engine.t + (max((f.seconds for f in script), default=0.0) if world.rng.random() < 0.7 else 1.0)
    )
    _settle(world)
    return world


def _heal(world: World) -> None:
    """Everything works again; nobody repairs anything by hand."""
    world.tell("world", "all faults are over")
    world.cuts.clear()
    world.slow = world.loss = 0.0
    world.etcd.stopped.clear()
    config = world.etcd.kvs.get("config")
    if config is not None and not json.loads(config.value)["failover"]:
        world.etcd.txn({}, {"config": json.dumps({**json.loads(config.value), "failover": True})})
    if (alone := world.etcd.kvs.get("alone")) is not None:  # a verb that did not get through is repeated
        losses.force(world, world.hosts[alone.value], accept=True)
    for host in world.hosts.values():
        host.traps.clear()
        host.start_fails = host.jobs_fail = False
        if host.leaderl is not None:
            host.leaderl.thaw()
        host.unfit, host.failover = "", True
        host.storage, host.storage_hangs = "", False
        host.thaw()
        host.power_on()
        host.start_leaderl()
        world.etcd.txn({}, {}, ("intent", "restore"))
        if host.pg.pm is not None:
            host.pg.pm.hung_at = None


def _why_not_converged(world: World) -> str:
    """What is missing to one leader and two streaming followers that have everything."""
    key = world.leader
    if key is None or key.state is not LeaderState.LEADING:
        return f"the leader key is {key}"
    if "restore" in world.etcd.kvs:
        return "a restoration is asked for"
    leader = world.hosts[key.name]
    if not leader.pg.writable or world.holders != {key.name} or leader.pg.data is None:
        return f"{key.name} is not a writable primary with the VIP"
    for name in world.names:
        pm, data = world.hosts[name].pg.pm, world.hosts[name].pg.data
        if name == key.name:
            continue
        if pm is None or data is None or pm.primary or not pm.up or pm.receiver is None or not pm.receiver.alive:
            return f"{name} does not stream"
        if data.system_id != world.generation:
            return f"{name} has former data"
        if data.upstream != key.name or len(data.log) + 20 < len(leader.pg.data.log):
            return f"{name} does not follow {key.name}"
        if f"candidates/{name}" in world.etcd.kvs:
            return f"{name} still stands for election"
    return ""


def _settle(world: World) -> None:
    """Heal, and see that the cluster converges and stays so."""
    _heal(world)
    within = 30 + 10 * world.times.ttl
    rejoins = world.rejoins
    _converge_within(world, within)
    world.engine.run(world.engine.t + world.times.ttl)  # a hand-over asked for because of a fault may still come
    _converge_within(world, within)
    if world.rejoins - rejoins > 8:
        world.violation(f"{world.rejoins - rejoins} rewinds and base backups until all followed again")
    epoch, count = world.leader.epoch if world.leader else 0, len(world.acknowledged)
    world.engine.run(world.engine.t + 2 * world.times.ttl)
    if why := _why_not_converged(world):
        world.violation(f"converged, but not for long: {why}")
    if world.leader is None or world.leader.epoch != epoch:
        world.violation("the leader changed although nothing was wrong")
    if len(world.acknowledged) == count:
        world.violation("converged, but no write is acknowledged")
    _nothing_lost(world)


def _converge_within(world: World, seconds: float) -> None:
    end = world.engine.t + seconds
    while why := _why_not_converged(world):
        if world.engine.t >= end:
            world.violation(f"not converged {seconds:.0f} s after all faults were over: {why}")
        world.engine.run(world.engine.t + 0.5)


def _nothing_lost(world: World) -> None:
    """At last every acknowledged write is on every node."""
    count = len(world.acknowledged) - 20
    for name, host in world.hosts.items():
        data = host.pg.data
        assert data is not None
        missing = set(world.acknowledged[: max(0, count)]) - {entry[1] for entry in data.log}
        if missing:
            world.violation(f"{name} has lost the acknowledged writes {sorted(missing)[:5]}")
