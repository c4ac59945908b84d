"""Commands carried out in the simulated world, by the same rules as ``chefha_core.act``."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from chefha_core import codec
from chefha_core.act import KEPT_EPOCHS, UNFIT
from chefha_core.model import (
    Candidacy,
    ClusterConfig,
    LeaderKey,
    LeaderState,
    Probe,
)
from chefha_core.plan import commands as c
from sim.engine import Steps
from sim.etcd import Unanswered

if TYPE_CHECKING:
    from sim.leaderl import Leaderl


def quick(node: Leaderl, command: c.Command) -> Steps:
    """True if it was done."""
    done = yield from _QUICK[type(command)](node, command)
    return done is not False


def _txn(node: Leaderl, compare: dict[str, int], puts: dict[str, str], deletes: tuple[str, ...] = ()) -> Steps:
    """True, False (a comparison failed) or None (no answer)."""
    etcd = node.world.etcd
    try:
        done = yield from etcd.request(node.name, lambda: etcd.txn(compare, puts, deletes))
    except Unanswered:
        return None
    return done


# ---- etcd ----


def _renew(node: Leaderl, cmd: c.Renew) -> Steps:
    sent_at = node.clock()
    key = LeaderKey(node.name, cmd.epoch, cmd.state, cmd.timeline, cmd.lsn, beat=cmd.beat)
    guards = node.world.guards
    compare = {"leader": cmd.expect} if guards.renew_compares else {}
    if guards.history_compares:
        compare[f"history/{cmd.epoch + 1}"] = 0
    puts = {"leader": codec.dump(key)}
    if node.view is None or cmd.timeline not in node.view.timelines:
        puts[f"timelines/{cmd.timeline}"] = node.name
    done = yield from _txn(node, compare, puts)
    if done:
        node.hold_lease(cmd.epoch, sent_at)
        leader = node.view.leader if node.view else None
        if leader is not None and leader.state is LeaderState.RELEASING:
            node.restarts = node.failed_rejoins = 0
    elif done is False and node.lease is not None and node.lease.epoch != cmd.epoch:
        node.lease = None
    return bool(done)


def _take(node: Leaderl, cmd: c.TakeKey) -> Steps:
    sent_at = node.clock()
    compare = {"leader": cmd.expect, f"history/{cmd.epoch}": 0}
    compare |= {f"candidates/{candidacy.name}": candidacy.mod_revision for candidacy in cmd.compared}
    if cmd.force:
        compare["force"] = cmd.force
    if not node.world.guards.take_compares:
        compare = {}
    key = LeaderKey(node.name, cmd.epoch, LeaderState.PROMOTING, cmd.timeline)
    history = {"name": node.name, "epoch": cmd.epoch, "timeline": cmd.timeline, "cause": cmd.cause}
    puts = {"leader": codec.dump(key), f"history/{cmd.epoch}": json.dumps(history)}
    old = f"history/{cmd.epoch - KEPT_EPOCHS}"
    done = yield from _txn(node, compare, puts, ("intent", "force", f"candidates/{node.name}", old))
    if not done:
        return False
    node.hold_lease(cmd.epoch, sent_at)
    node.standing = False
    node.took_at = sent_at
    node.restarts = node.new_starts = 0
    node.handed_over = not cmd.compared
    node.world.tell(node.name, f"took the key: epoch {cmd.epoch}, timeline {cmd.timeline}, {cmd.cause}")
    if cmd.force:
        node.world.give_up_what_is_lost(node.host)
    node.world.react(cmd.epoch)
    return True


def _release(node: Leaderl, cmd: c.ReleaseKey) -> Steps:
    key = LeaderKey(node.name, cmd.epoch, LeaderState.RELEASING, cmd.timeline, cmd.lsn, cmd.to, cmd.clean)
    done = yield from _txn(node, {"leader": cmd.expect}, {"leader": codec.dump(key)}, ("intent",))
    if done and not cmd.clean and not cmd.fit:
        node.unfit, node.unfit_until = cmd.reason, node.clock() + UNFIT
    return bool(done)


def _post(node: Leaderl, cmd: c.PostCandidacy) -> Steps:
    candidacy = Candidacy(node.name, cmd.epoch, cmd.position, cmd.fit)
    assert node.view is not None
    if node.clock() < node.promised_until:
        return False
    node.standing, node.stood_against = True, node.view.leader_revision
    done = yield from write_candidacy(node, candidacy)
    if done:
        node.asserted_at = node.clock()
    return bool(done)


def write_candidacy(node: Leaderl, candidacy: Candidacy) -> Steps:
    """Nothing may have changed that it was decided by."""
    key, etcd = f"candidates/{node.name}", node.world.etcd
    if node.view is None:
        return False
    expect = node.view.leader_revision
    try:
        before = yield from etcd.request(node.name, lambda: etcd.kvs.get(key), write=False)
    except Unanswered:
        return False
    compare = {"leader": expect, key: before.mod_revision if before else 0}
    done = yield from _txn(node, compare if node.world.guards.post_compares else {}, {key: codec.dump(candidacy)})
    return bool(done)


def _withdraw(node: Leaderl, _: c.WithdrawCandidacy) -> Steps:
    done = yield from _txn(node, {}, {}, (f"candidates/{node.name}",))
    if done:
        node.standing = False
    return bool(done)


def _ask_hand_over(node: Leaderl, cmd: c.AskHandOver) -> Steps:
    wish = json.dumps({"to": "", "by": node.name, "epoch": cmd.epoch})
    etcd = node.world.etcd
    try:
        leader = yield from etcd.request(node.name, lambda: etcd.kvs.get("leader"), write=False)
    except Unanswered:
        return False
    done = yield from _txn(node, {"intent": 0, "leader": leader.mod_revision if leader else 0}, {"intent": wish})
    if done:
        node.asked_at = node.clock()
    return bool(done)


def _clear(node: Leaderl, cmd: c.ClearIntent) -> Steps:
    done = yield from _txn(node, {}, {}, ("intent",))
    return bool(done)


def _clear_restore(node: Leaderl, cmd: c.ClearRestore) -> Steps:
    done = yield from _txn(node, {}, {}, ("restore",))
    return bool(done)


def _publish_restore(node: Leaderl, cmd: c.PublishRestore) -> Steps:
    sent_at, world, request = node.clock(), node.world, cmd.request
    config = world.etcd.kvs.get("config")
    yield 0.0005
    if config is None:
        return False
    before = codec.cluster_config(config)
    key = LeaderKey(node.name, cmd.epoch, LeaderState.LEADING, request.timeline)
    new = dataclasses.replace(before, system_id=request.system_id, former=(*before.former, before.system_id))
    history = {"name": node.name, "epoch": cmd.epoch, "timeline": request.timeline, "cause": "restored"}
    compare = {"restore": request.mod_revision, "config": config.mod_revision}
    compare |= {"leader": cmd.expect, f"history/{cmd.epoch}": 0}
    compare = compare if world.guards.publish_compares else {}
    puts = {
        "leader": codec.dump(key),
        "config": codec.dump(new),
        "sync": codec.dump(cmd.sync),
        f"history/{cmd.epoch}": json.dumps(history),
    }
    done = yield from _txn(node, compare, puts, ("restore", "intent"))
    if done:
        node.hold_lease(cmd.epoch, sent_at)
        node.took_at, node.restarts, node.handed_over = sent_at, 0, False
    return bool(done)


def _claim(node: Leaderl, _: c.ClaimInitialisation) -> Steps:
    done = yield from _txn(node, {"initialiser": 0, "config": 0, "leader": 0}, {"initialiser": node.name})
    return bool(done)


def _publish(node: Leaderl, cmd: c.PublishCluster) -> Steps:
    sent_at = node.clock()
    key = LeaderKey(node.name, 1, LeaderState.LEADING, cmd.timeline)
    puts = {
        "config": codec.dump(ClusterConfig(cmd.system_id)),
        "sync": codec.dump(cmd.sync),
        "leader": codec.dump(key),
        "history/1": json.dumps({"name": node.name, "epoch": 1, "timeline": cmd.timeline, "cause": "first"}),
    }
    done = yield from _txn(node, {"config": 0, "leader": 0}, puts)
    if done:
        node.hold_lease(1, sent_at)
    return bool(done)


def _publish_sync(node: Leaderl, cmd: c.PublishSync) -> Steps:
    alone = cmd.rule.voters == (node.name,)
    puts = {"sync": codec.dump(cmd.rule), **({"alone": node.name} if alone else {})}
    done = yield from _txn(node, {}, puts, () if alone else ("alone",))
    return bool(done)


# ---- questions ----


def _ask_leader(node: Leaderl, cmd: c.AskLeader) -> Steps:
    if not node.asking:
        node.asking = True
        node.world.engine.spawn(_asked(node, cmd), node)
    return True
    yield


def _asked(node: Leaderl, cmd: c.AskLeader) -> Steps:
    world = node.world
    answer = Probe.SILENT
    yield world.latency()
    other = world.hosts[cmd.name]
    if _heard(node, cmd.name):
        assert other.leaderl is not None
        answer = other.leaderl.leads()
        yield world.latency()
        if not world.reach(cmd.name, node.name, "http"):
            answer = Probe.SILENT
    if answer is Probe.SILENT:
        yield world.times.probe_deadline
    node.probe, node.probed_at, node.asking = answer, node.clock(), False
    node.poke()


def _heard(node: Leaderl, name: str) -> bool:
    world, other = node.world, node.world.hosts[name]
    lost = world.loss and world.rng.random() < world.loss
    alive = other.up and other.leaderl is not None and other.leaderl.freezer() is None
    return not lost and alive and world.reach(node.name, name, "http")


def _ask_failsafe(node: Leaderl, cmd: c.AskFailsafe) -> Steps:
    world = node.world
    before = node.clock()
    yield world.latency()
    agreed = True
    for name in world.names:
        if name == node.name:
            continue
        peer = world.hosts[name].leaderl
        yes = _heard(node, name) and peer is not None and peer.failsafe(node.name, cmd.epoch)
        agreed = agreed and yes and world.reach(name, node.name, "http")
    yield world.latency()
    if not agreed:
        yield world.times.probe_deadline
        return False
    world.tell(node.name, "both others agree: leading on without etcd")
    node.hold_lease(cmd.epoch, before)
    return True


# ---- the address ----


def _hold(node: Leaderl, cmd: c.HoldAddress) -> Steps:
    if cmd.check:
        yield node.world.rng.uniform(0.01, 0.3)
    lifetime = node.address_lifetime(cmd.seconds)
    if lifetime < 1 or node.paused:
        return False
    if cmd.take:
        node.world.tell(node.name, f"holds the VIP for {lifetime} s at first")
    node.host.add_address(lifetime)
    return True


def _drop(node: Leaderl, _: c.DropAddress) -> Steps:
    node.host.drop_address()
    return True
    yield


def _end_sessions(node: Leaderl, _: c.EndClientSessions) -> Steps:
    node.host.pg.end_sessions()
    return True
    yield


# ---- PostgreSQL, quick ----


def _kill(node: Leaderl, _: c.KillPostgres) -> Steps:
    node.host.pg.end()
    node.forget_facts()
    return True
    yield


def _follow(node: Leaderl, cmd: c.Follow) -> Steps:
    pg = node.host.pg
    if node.host.storage_hangs and node.host.storage:
        node.world.violation(f"{node.name} writes where a write hangs, in its own loop")
    if pg.pm is None or pg.pm.primary or pg.data is None:
        return False
    yield 0.01
    if pg.pm is None or pg.pm.primary:
        return False
    pg.point_to(node.world.by_address(cmd.upstream))
    node.forget_facts()
    return True


_QUICK: dict[type[c.Command], Any] = {
    c.Renew: _renew,
    c.TakeKey: _take,
    c.ReleaseKey: _release,
    c.PostCandidacy: _post,
    c.WithdrawCandidacy: _withdraw,
    c.AskHandOver: _ask_hand_over,
    c.ClearIntent: _clear,
    c.ClearRestore: _clear_restore,
    c.PublishRestore: _publish_restore,
    c.ClaimInitialisation: _claim,
    c.PublishCluster: _publish,
    c.PublishSync: _publish_sync,
    c.AskLeader: _ask_leader,
    c.AskFailsafe: _ask_failsafe,
    c.HoldAddress: _hold,
    c.DropAddress: _drop,
    c.EndClientSessions: _end_sessions,
    c.KillPostgres: _kill,
    c.Follow: _follow,
}
