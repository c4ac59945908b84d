"""Commands that take long, by the same rules as the jobs of ``chefha_core.act``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chefha_core.model import Candidacy, Position
from chefha_core.plan import commands as c
from sim import act
from sim.directory import Data
from sim.engine import Steps
from sim.etcd import Unanswered

if TYPE_CHECKING:
    from sim.leaderl import Leaderl


def job(node: Leaderl, command: c.Command) -> Steps:
    """Carry it out; its failure is in the facts of the next round."""
    yield from _JOBS[type(command)](node, command)


def _still_leads(node: Leaderl) -> Steps:
    """etcd is asked once more when a job that makes a primary begins."""
    if not node.world.guards.lease_before_promotion:
        return True
    etcd = node.world.etcd
    try:
        key = yield from etcd.request(node.name, lambda: node.world.leader, write=False)
    except Unanswered:
        return False
    if key is None or node.lease is None or (key.name, key.epoch) != (node.name, node.lease.epoch):
        return False
    if node.paused:
        return False
    return node.clock() < node.lease.sent_at + node.policy.times.ttl  # it may have been stopped since etcd answered


def _written(node: Leaderl) -> Steps:
    """A write that this job cannot do without."""
    while node.host.storage_hangs:
        yield 0.1


def _cut(node: Leaderl, _: c.Command) -> Steps:
    pg = node.host.pg
    yield 0.005
    yield from _written(node)
    if pg.data is None or pg.pm is None or pg.pm.primary:
        return
    if not node.world.guards.receiver_cut:
        pg.lies = True
        return
    pg.point_to("")
    yield node.world.rng.uniform(0.005, 0.1)


def _catch_up(node: Leaderl, cmd: c.CatchUp) -> Steps:
    pg, position = node.host.pg, node.facts().position
    if position is None or not (yield from act.write_candidacy(node, Candidacy(node.name, 0, position, False))):
        return
    if pg.data is None or pg.pm is None or pg.pm.primary or node.host.jobs_fail:
        return
    yield from _written(node)
    pm, until = pg.pm, node.clock() + node.policy.times.ttl
    pg.point_to(node.world.by_address(cmd.upstream), by_slot=False)
    while pm.alive and pg.data is not None and node.clock() < until:
        if Position(pg.data.log[pg.data.flushed - 1][0], pg.data.flushed) >= cmd.position:
            break
        yield 0.02
    yield from _cut(node, cmd)


def _promote(node: Leaderl, cmd: c.Promote) -> Steps:
    pg = node.host.pg
    leads = yield from _still_leads(node)
    if not leads or pg.pm is None or pg.data is None or not pg.pm.up or pg.pm.primary:
        return
    pm = pg.pm
    node.restarts += 1
    node.world.primary_decided(node.host, cmd.timeline)
    pg.set_sync(cmd.sync_names)
    yield node.world.rng.uniform(0.02, 0.6)
    yield from _written(node)
    if pm.alive and pg.pm is pm and not node.host.jobs_fail and pm.hung_at is None:
        pg.promote(cmd.timeline)
        node.restarts = 0


def _slots(node: Leaderl, cmd: c.Slots) -> Steps:
    yield node.world.rng.uniform(0.005, 0.2)
    if node.host.pg.data is not None and node.host.pg.pm is not None:
        node.host.pg.data.slots = frozenset(cmd.names)


def _set_sync(node: Leaderl, cmd: c.SetSync) -> Steps:
    if node.host.pg.data is None:
        return False
    yield node.world.rng.uniform(0.005, 0.2)
    if node.host.pg.data is None:
        return False
    node.host.pg.set_sync(cmd.sync_names)
    node.waits = (cmd.sync_names, len(node.host.pg.data.log))
    return True


def _start_primary(node: Leaderl, cmd: c.StartPrimary) -> Steps:
    pg = node.host.pg
    first = node.last is not None and node.last.config is None and node.last.initialiser == node.name
    leads = first or (yield from _still_leads(node))
    if not leads:
        return
    node.restarts += 1
    if cmd.kill_first:
        pg.end()
    if pg.data is not None:
        if not first:
            node.world.primary_decided(node.host, pg.data.timeline)
        pg.set_sync(cmd.sync_names)
    started = yield from pg.start(primary=True)
    while started and pg.pm is not None and not pg.pm.up:
        yield 0.05
    if pg.writable:
        node.restarts = 0


def _start_standby(node: Leaderl, cmd: c.StartStandby) -> Steps:
    pg = node.host.pg
    if pg.pm is not None and not pg.pm.primary and not pg.pm.up:
        pg.end()  # a start that waits for an upstream that is gone
    if pg.pm is not None or pg.data is None:
        return
    pg.data.upstream, pg.data.by_slot = node.world.by_address(cmd.upstream), True
    started = yield from pg.start(primary=False)
    _rejoined(node, started)


def _stop(node: Leaderl, _: c.StopPostgres) -> Steps:
    yield from node.host.pg.stop()


def _checkpoint(node: Leaderl, cmd: c.Checkpoint) -> Steps:
    yield node.world.rng.uniform(0.02, 0.5)
    yield from _written(node)
    pg = node.host.pg
    if pg.writable and not node.host.jobs_fail and pg.data is not None:
        pg.data.checkpoint_timeline = pg.data.timeline
        node.prepared_for = cmd.prepares or node.prepared_for


def _rewind(node: Leaderl, cmd: c.Rewind) -> Steps:
    yield from _rejoin(node, cmd.upstream, whole=False)


def _restart(node: Leaderl, cmd: c.Restart) -> Steps:
    pg = node.host.pg
    node.new_starts = cmd.new_starts
    pg.end()
    if pg.data is None:
        return
    pg.data.upstream, pg.data.by_slot = node.world.by_address(cmd.upstream), True
    started = yield from pg.start(primary=False)
    _rejoined(node, started)


def _clone(node: Leaderl, cmd: c.Clone) -> Steps:
    node.new_starts = cmd.new_starts
    yield from _rejoin(node, cmd.upstream, whole=True)


def _rejoin(node: Leaderl, upstream: str, whole: bool) -> Steps:
    """Rewind changes the directory in place; a clone is made beside it."""
    world, pg = node.world, node.host.pg
    source = world.by_address(upstream)
    node.world.rejoins += 1
    yield from pg.stop()
    done = False
    for _ in range(world.rng.randint(1, 4)):
        yield world.rng.uniform(0.05, 0.4)
        done = _source_ready(node, source)
        if not done:
            break
        if not whole and pg.data is not None:
            pg.data.damaged = True
    if not done or node.host.jobs_fail:
        _rejoined(node, False)
        pg.problem = f"copying from {source} failed"
        return
    theirs = world.hosts[source].pg.data
    assert theirs is not None
    log = list(theirs.log[: theirs.flushed])
    length = len(log)
    if not whole and pg.data is not None:
        same = 0
        while same < min(len(log), len(pg.data.log)) and log[same] == pg.data.log[same]:
            same += 1
        del log[max(1, same) :]
    pg.data = Data(theirs.system_id, log, flushed=len(log), upstream=source, consistent_at=length)
    pg.data.checkpoint_timeline = log[-1][0]
    started = yield from pg.start(primary=False)
    _rejoined(node, started)


def _rejoined(node: Leaderl, done: bool) -> None:
    """Failures are counted and back off."""
    if done:
        node.retry_at = 0.0
        return
    node.failed_rejoins += 1
    node.retry_at = node.clock() + min(300.0, 2.0 ** min(node.failed_rejoins, 9))


def _source_ready(node: Leaderl, source: str) -> bool:
    world, other = node.world, node.world.hosts[source]
    reach = world.reach(source, node.name, "pg") and world.reach(node.name, source, "pg")
    return reach and not other.frozen and other.pg.writable and other.pg.pm is not None and other.pg.pm.hung_at is None


def _swap_in(node: Leaderl, cmd: c.SwapIn) -> Steps:
    pg = node.host.pg
    if pg.pm is not None or pg.restored is None or pg.restored.system_id != cmd.system_id:
        return
    pg.data = None
    yield node.world.rng.uniform(0.001, 0.05)
    pg.data, pg.restored = pg.restored, None


def _init(node: Leaderl, _: c.InitDb) -> Steps:
    world, pg = node.world, node.host.pg
    if pg.data is not None:
        world.violation(f"initdb on {node.name} over a data directory")
    world.initialised(node.host)
    yield world.rng.uniform(0.2, 1.0)
    pg.data = Data(
        f"system-{world.new_record()}",
        [(1, world.new_record())],
        flushed=1,
        was_primary=True,
        clean=True,
        standby=False,
    )


_JOBS: dict[type[c.Command], Any] = {
    c.CutReceiver: _cut,
    c.CatchUp: _catch_up,
    c.Promote: _promote,
    c.Slots: _slots,
    c.SetSync: _set_sync,
    c.StartPrimary: _start_primary,
    c.StartStandby: _start_standby,
    c.StopPostgres: _stop,
    c.Checkpoint: _checkpoint,
    c.Rewind: _rewind,
    c.Restart: _restart,
    c.Clone: _clone,
    c.SwapIn: _swap_in,
    c.InitDb: _init,
}
