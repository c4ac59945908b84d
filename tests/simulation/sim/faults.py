"""Faults as small frozen objects that shrink and print well; targets are roles, resolved when the fault strikes."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hypothesis import strategies as st

from chefha_core import codec
from chefha_core.model import LeaderKey, Restoration
from chefha_core.plan.facts import APART
from sim import losses
from sim.directory import Data
from sim.host import Host
from sim.world import NAMES, World

PLANES = ("etcd", "pg", "http")


@dataclass(frozen=True)
class Fault:
    """Strikes ``after`` seconds after the one before, for ``seconds``."""

    after: float
    what: str
    target: str = "leader"
    seconds: float = 1.0
    extra: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.target} for {self.seconds} s {self.extra}".rstrip()


def resolve(world: World, target: str) -> str:
    """The name of the leader, or of the first or second other node."""
    key = world.leader
    leader = key.name if key else "a"
    others = [name for name in NAMES if name != leader]
    return target if target in NAMES else {"leader": leader, "first": others[0], "second": others[1]}[target]


def strike(world: World, fault: Fault) -> None:
    """Make it happen, and end it in time."""
    name = resolve(world, fault.target)
    world.tell("FAULT", f"{fault} ({name})")
    _FAULTS[fault.what](world, world.hosts[name], fault)


def _later(world: World, fault: Fault, undo: object) -> None:
    world.engine.at(fault.seconds, undo)  # type: ignore[arg-type]


def _crash(world: World, host: Host, fault: Fault) -> None:
    host.power_off()
    _later(world, fault, host.power_on)


def _crash_all(world: World, host: Host, fault: Fault) -> None:
    for number, other in enumerate(world.hosts.values()):
        other.power_off()
        world.engine.at(fault.seconds * (1 + number * world.rng.random()), other.power_on)


def _pause(world: World, host: Host, fault: Fault) -> None:
    host.freeze()
    _later(world, fault, host.thaw)


def _suspend(world: World, host: Host, fault: Fault) -> None:
    world.spring(host, "suspend", fault.seconds)


def _kill_leaderl(world: World, host: Host, fault: Fault) -> None:
    host.kill_leaderl()
    _later(world, fault, host.start_leaderl)


def _stop_leaderl(world: World, host: Host, fault: Fault) -> None:
    world.spring(host, "stop leaderl", fault.seconds)


def _kill_postgres(world: World, host: Host, fault: Fault) -> None:
    host.pg.end()


def _hang_postgres(world: World, host: Host, fault: Fault) -> None:
    pm = host.pg.pm
    if pm is not None:
        pm.hung_at = world.engine.t

        def go_on() -> None:
            if pm is not None:
                pm.hung_at = None

        _later(world, fault, go_on)


def _deafen(world: World, host: Host, fault: Fault) -> None:
    """The receiver of a standby that answers never connects again."""
    pm = host.pg.pm
    if pm is not None and pm.up and not pm.primary:
        pm.deaf = True
        host.pg.disconnect(pm)
        host.pg.reconnect()


def _cut(world: World, pairs: list[tuple[str, str]], planes: tuple[str, ...], fault: Fault) -> None:
    keys = [(one, other, plane) for one, other in pairs for plane in planes]
    world.cuts.update(keys)

    def join() -> None:
        if world.cuts:
            world.cuts.subtract(keys)

    _later(world, fault, join)


def _isolate(world: World, host: Host, fault: Fault) -> None:
    """Cut a node off: on all planes or one, both ways or one; from all, or from one other."""
    words = fault.extra.split()
    planes = tuple(p for p in PLANES if p in words) or PLANES
    others = [name for name in NAMES if name != host.name]
    others = others[:1] if "one" in words else others
    pairs: list[tuple[str, str]] = []
    if "in" in words or "out" not in words:
        pairs += [(other, host.name) for other in others]
    if "out" in words or "in" not in words:
        pairs += [(host.name, other) for other in others]
    _cut(world, pairs, planes, fault)


def _etcd_stop(world: World, host: Host, fault: Fault) -> None:
    stopped = NAMES if "all" in fault.extra else (host.name,)
    world.etcd.stopped |= set(stopped)
    _later(world, fault, lambda: world.etcd.stopped.difference_update(stopped))


def _slow(world: World, host: Host, fault: Fault) -> None:
    world.slow = 0.4

    def fast() -> None:
        world.slow = 0.0

    _later(world, fault, fast)


def _lossy(world: World, host: Host, fault: Fault) -> None:
    world.loss = 0.3

    def sound() -> None:
        world.loss = 0.0

    _later(world, fault, sound)


def _hand_promote(world: World, host: Host, fault: Fault) -> None:
    """On one node of a history only: where two of three logs are of nobody's timeline, no quorum can say what counts,
    and the cluster waits for people. So it does where the only log is."""
    pg = host.pg
    if world.with_data() < 2:
        return
    if world.promoted_by_hand in ("", host.name) and pg.pm is not None and pg.pm.up and not pg.pm.primary:
        world.promoted_by_hand = host.name
        pg.pm.by_hand = True
        pg.promote(None)


def _hand_start(world: World, host: Host, fault: Fault) -> None:
    pg = host.pg
    if pg.data is not None and pg.pm is None and host.up:
        world.engine.spawn(pg.start(primary=not pg.data.standby, by_hand=True), host)


def _delete_key(world: World, host: Host, fault: Fault) -> None:
    """Not while one node alone has the cluster's data: without its key it needs a second one that has it, too."""
    if world.etcd.available and (world.with_data() >= 2 or "config" not in world.etcd.kvs):
        world.etcd.txn({}, {}, ("leader",))


def _hand_over(world: World, host: Host, fault: Fault) -> None:
    key: LeaderKey | None = world.leader
    if key is not None and world.etcd.available:
        to = "" if "anybody" in fault.extra or host.name == key.name else host.name
        world.etcd.txn({}, {"intent": json.dumps({"to": to, "by": "operator", "epoch": key.epoch})})


def _restore(world: World, host: Host, fault: Fault) -> None:
    """An archive of some time ago is staged on the leader, and asked for; its promotion begins with a record."""
    key: LeaderKey | None = world.leader
    kv = world.etcd.kvs.get("config")
    if key is None or kv is None or not world.etcd.available or not host.up or world.with_data() < 2:
        return
    data = world.hosts[key.name].pg.data
    if data is None or data.damaged or data.system_id != world.generation or world.hosts[key.name].pg.restored:
        return
    given = [int(name[10:]) for name in world.etcd.kvs if name.startswith("timelines/")]
    given += [json.loads(kv.value)["timeline"] for n, kv in world.etcd.kvs.items() if n.startswith("history/")]
    timeline = max([*given, key.timeline, data.timeline]) + APART
    system_id = f"system-{world.new_record()}"
    log = [*data.log[: max(1, len(data.log) * 2 // 3)], (timeline, world.new_record())]
    world.hosts[key.name].pg.restored = Data(
        system_id, log, len(log), was_primary=True, clean=True, standby=False, checkpoint_timeline=timeline
    )
    world.restorable[system_id] = frozenset(record for _, record in log)
    request = Restoration(key.name, key.epoch, system_id, timeline)
    world.etcd.txn({}, {"restore": codec.dump(request)})


def _failover_off(world: World, host: Host, fault: Fault) -> None:
    def switch(on: bool) -> None:
        if "config" in world.etcd.kvs and (world.etcd.available or on):
            value = json.loads(world.etcd.kvs["config"].value)
            world.etcd.txn({}, {"config": json.dumps({**value, "failover": on})})

    if "node" in fault.extra:
        host.failover = False
        _later(world, fault, lambda: setattr(host, "failover", True))
    else:
        switch(False)
        _later(world, fault, lambda: switch(True))


def _jobs_fail(world: World, host: Host, fault: Fault) -> None:
    host.jobs_fail = True
    host.start_fails = "start" in fault.extra

    def mend() -> None:
        host.jobs_fail = host.start_fails = False

    _later(world, fault, mend)


def _unfit(world: World, host: Host, fault: Fault) -> None:
    host.unfit = "the disk is full"
    _later(world, fault, lambda: setattr(host, "unfit", ""))


def _disk(world: World, host: Host, fault: Fault) -> None:
    """The storage of a node, or of all, is full or hangs; leaderl is sure of it a little later."""
    hosts = list(world.hosts.values()) if "all" in fault.extra else [host]

    def known() -> None:
        for each in hosts:
            each.storage = "a write does not come back" if each.storage_hangs else "less than 64 MiB are free"
            each.poke()

    def well() -> None:
        for each in hosts:
            each.storage, each.storage_hangs = "", False

    for each in hosts:
        each.storage_hangs = "hangs" in fault.extra
    world.engine.at(min(1.0, fault.seconds / 2), known)
    _later(world, fault, well)


def _wipe(world: World, host: Host, fault: Fault) -> None:
    """A data directory is gone; only of a follower, and only while the others have theirs."""
    key = world.leader
    whole = [h for h in world.hosts.values() if h is not host and h.pg.data is not None and not h.pg.data.damaged]
    whole = [h for h in whole if h.pg.data is not None and h.pg.data.system_id == world.generation]
    streaming = [h for h in whole if h.pg.pm is not None and h.pg.pm.up]
    if key is not None and key.name != host.name and len(streaming) == 2:
        host.pg.end()
        host.pg.data = None
        world.wiped = True


def _trap(world: World, host: Host, fault: Fault) -> None:
    what, command, when = fault.extra.split("/")
    host.traps.append((what, command, when, fault.seconds))


def _nothing(world: World, host: Host, fault: Fault) -> None:
    """Time goes by."""


_FAULTS = {
    "nothing": _nothing,
    "crash": _crash,
    "crash all": _crash_all,
    "pause": _pause,
    "suspend": _suspend,
    "kill leaderl of": _kill_leaderl,
    "stop leaderl of": _stop_leaderl,
    "kill PostgreSQL of": _kill_postgres,
    "hang PostgreSQL of": _hang_postgres,
    "hang the receiver of": _deafen,
    "cut off": _isolate,
    "stop etcd of": _etcd_stop,
    "slow network": _slow,
    "lossy network": _lossy,
    "pg_promote by hand on": _hand_promote,
    "PostgreSQL started by hand on": _hand_start,
    "leader key deleted": _delete_key,
    "hand over to": _hand_over,
    "restore on": _restore,
    "failover off": _failover_off,
    "jobs fail on": _jobs_fail,
    "unfit": _unfit,
    "disk full": _disk,
    "wipe": _wipe,
    "trap": _trap,
    "two of three lost but": losses.two_of_three_lost,
    "force to lead": losses.force_leader,
    "remove and replace": losses.removed_and_replaced,
}

_COMMANDS = (
    "Renew",
    "TakeKey",
    "ReleaseKey",
    "PostCandidacy",
    "WithdrawCandidacy",
    "HoldAddress",
    "DropAddress",
    "EndClientSessions",
    "KillPostgres",
    "CutReceiver",
    "CatchUp",
    "Promote",
    "StartPrimary",
    "StartStandby",
    "StopPostgres",
    "Follow",
    "Rewind",
    "Checkpoint",
    "AskFailsafe",
    "PublishRestore",
    "SwapIn",
    "Clone",
)
_after = st.one_of(st.integers(0, 20).map(lambda n: n / 10), st.integers(0, 60).map(lambda n: n / 10))
_seconds = st.sampled_from((0.3, 1.0, 2.0, 3.5, 5.0, 8.0, 15.0))
_NO_WORDS = st.just("")
_target = st.sampled_from(("leader", "leader", "first", "second"))


def _fault(
    what: str, extra: st.SearchStrategy[str] = _NO_WORDS, target: st.SearchStrategy[str] = _target
) -> st.SearchStrategy[Fault]:
    return st.builds(Fault, _after, st.just(what), target, _seconds, extra)


_any = st.just("leader")
_cuts = st.tuples(
    st.sampled_from(("", "", "etcd", "pg", "http", "pg http", "etcd http")),
    st.sampled_from(("", "", "in", "out")),
    st.sampled_from(("", "", "one")),
).map(lambda words: " ".join(word for word in words if word))
_traps = st.tuples(
    st.sampled_from(("pause", "suspend", "stop leaderl", "kill leaderl", "crash", "kill PostgreSQL")),
    st.sampled_from(_COMMANDS),
    st.sampled_from(("before", "after")),
).map("/".join)

faults: st.SearchStrategy[Fault] = st.one_of(
    _fault("cut off", _cuts),
    _fault("trap", _traps),
    _fault("crash"),
    _fault("pause"),
    _fault("suspend"),
    _fault("kill leaderl of"),
    _fault("stop leaderl of"),
    _fault("kill PostgreSQL of"),
    _fault("cut off", _cuts),
    _fault("trap", _traps),
    _fault("stop etcd of", st.sampled_from(("", "all"))),
    _fault("hand over to", st.sampled_from(("", "anybody"))),
    _fault("restore on", target=_any),
    _fault("lossy network", target=_any),
    _fault("slow network", target=_any),
    _fault("hang PostgreSQL of"),
    _fault("hang the receiver of"),
    _fault("jobs fail on", st.sampled_from(("", "start"))),
    _fault("pg_promote by hand on"),
    _fault("PostgreSQL started by hand on"),
    _fault("leader key deleted", target=_any),
    _fault("failover off", st.sampled_from(("", "node"))),
    _fault("unfit"),
    _fault("disk full", st.sampled_from(("", "hangs", "all", "all hangs"))),
    _fault("crash all", target=_any),
    _fault("wipe"),
    _fault("two of three lost but"),
    _fault("force to lead", st.sampled_from(("", "accept"))),
    _fault("remove and replace"),
)
scripts = st.lists(faults, max_size=12)
