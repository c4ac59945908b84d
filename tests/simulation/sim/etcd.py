"""etcd as its clients see it: one linearizable store that answers only where a quorum is connected."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chefha_core import codec
from chefha_core.model import EtcdView
from sim.engine import Steps

if TYPE_CHECKING:
    from sim.world import World


#: keys whose change wakes every leaderl that watches
RINGS = (
    *("candidates/", "intent", "restore", "config", "initialiser", "sync"),
    *("force", "alone", "removed/", "bootstrap"),
)


class Unanswered(Exception):
    """No answer within the deadline: the request may have been applied or not, or be applied later."""


class KeyValue:
    """What codec reads, and what it made of it: values never change, so decoding once is enough."""

    __slots__ = ("fact", "mod_revision", "value")

    def __init__(self, value: str, mod_revision: int) -> None:
        self.value, self.mod_revision = value, mod_revision
        self.fact: Any = None

    def decoded(self, decoder: Callable[[KeyValue], Any]) -> Any:
        """The value as a fact."""
        if self.fact is None:
            self.fact = decoder(self)
        return self.fact


@dataclass(frozen=True)
class Snapshot:
    """What codec reads."""

    revision: int
    kvs: dict[str, KeyValue]


def view(snapshot: Snapshot, now: float, previous: EtcdView | None = None) -> EtcdView:
    """What ``codec.view`` says, decoding each value once only; a test shows that they are equal."""
    kvs = snapshot.kvs
    revision = kvs["leader"].mod_revision if "leader" in kvs else 0
    unchanged = previous is not None and previous.leader_revision == revision
    single: dict[str, Any] = {}
    for key, decoder in _SINGLE.items():
        single[key] = kvs[key].decoded(decoder) if key in kvs else None
    candidates, members, history = {}, {}, []
    given = {int(key[10:]) for key in kvs if key.startswith("timelines/")}
    for key, kv in kvs.items():
        if key.startswith("members/"):
            members[key[8:]] = kv.decoded(codec.member_report)
        elif key.startswith("candidates/"):
            candidates[key[11:]] = kv.decoded(codec.candidacy)
        elif key.startswith("history/"):
            history.append(kv.decoded(lambda kv: json.loads(kv.value)))
    return EtcdView(
        revision=snapshot.revision,
        leader=single["leader"],
        leader_revision=revision,
        leader_changed_at=previous.leader_changed_at if previous and unchanged else now,
        candidates=candidates,
        members=members,
        config=single["config"],
        initialiser=kvs["initialiser"].value if "initialiser" in kvs else "",
        sync=single["sync"],
        intent=single["intent"],
        intent_seen_at=previous.intent_seen_at if previous and previous.intent == single["intent"] else now,
        restore=single["restore"],
        restore_seen_at=previous.restore_seen_at if previous and previous.restore == single["restore"] else now,
        last_epoch=max([row["epoch"] for row in history], default=0),
        last_timeline=max({row["timeline"] for row in history} | given, default=0),
        timelines=frozenset(
            {row["timeline"] for row in history} | given | ({single["leader"].timeline} if single["leader"] else set())
        ),
        force=single["force"],
        alone=kvs["alone"].value if "alone" in kvs else "",
        removed=frozenset(key[8:] for key in kvs if key.startswith("removed/")),
        bootstrap=kvs["bootstrap"].value if "bootstrap" in kvs else "",
    )


_SINGLE: dict[str, Callable[[KeyValue], Any]] = {
    "leader": codec.leader_key,
    "config": codec.cluster_config,
    "sync": codec.sync_rule,
    "intent": codec.intent,
    "restore": codec.restoration,
    "force": codec.force,
}


class Etcd:
    """Three members, one on each host."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.revision = 1
        self.kvs: dict[str, KeyValue] = {}
        self.leases: dict[str, float] = {}
        self.stopped: set[str] = set()
        self.members = set(world.names)
        self.leader = ""
        self._electing = False
        self._said: object = None

    # ---- the store ----

    def put(self, key: str, value: str, lease: float = 0.0) -> None:
        self.kvs[key] = KeyValue(value, self.revision)
        if lease:
            self.leases[key] = self.world.engine.t + lease

    def txn(self, compare: dict[str, int], puts: dict[str, str], deletes: tuple[str, ...] = ()) -> bool:
        """One transaction; ``compare`` holds mod_revisions, 0 for absent."""
        for key, revision in compare.items():
            if (self.kvs[key].mod_revision if key in self.kvs else 0) != revision:
                return False
        self.revision += 1
        for key, value in puts.items():
            self.put(key, value)
        for key in deletes:
            self.kvs.pop(key, None)
        self._ring((*puts, *deletes))
        return True

    def _ring(self, keys: tuple[str, ...]) -> None:
        """Watchers hear of what changed; of the leader key only when more than its beat changed."""
        leads = self.world.leader
        said = (leads.epoch, leads.state) if leads else None
        news = "leader" in keys and said != self._said
        self._said = said
        if not news and not any(key.startswith(RINGS) for key in keys):
            return
        for host in self.world.hosts.values():
            if host.leaderl is not None and (self._alive(host.name) or self.world.rng.random() < 0.5):
                self.world.engine.at(self.world.latency(), host.poke, host)

    def report(self, key: str, value: str, lease: float) -> bool:
        self.revision += 1
        self.put(key, value, lease)
        return True

    def snapshot(self) -> Snapshot:
        for key, deadline in list(self.leases.items()):
            if deadline < self.world.engine.t:
                del self.leases[key]
                self.kvs.pop(key, None)
        return Snapshot(self.revision, dict(self.kvs))

    # ---- the members ----

    def _alive(self, name: str) -> bool:
        host = self.world.hosts[name]
        return host.up and not host.frozen and name not in self.stopped

    def _pair(self, one: str, other: str) -> bool:
        reach = self.world.reach
        return one == other or (reach(one, other, "etcd") and reach(other, one, "etcd"))

    def _leads(self, name: str) -> bool:
        alive = [m for m in self.world.names if m in self.members and self._alive(m)]
        return name in alive and 2 * sum(self._pair(name, m) for m in alive) > len(self.members)

    @property
    def available(self) -> bool:
        """True if a quorum answers now."""
        self.refresh()
        return bool(self.leader)

    def refresh(self) -> None:
        """Notice that the leader is gone; elect another one after a second or so."""
        if self.leader and self._leads(self.leader):
            return
        self.leader = ""
        if not self._electing:
            self._electing = True
            self.world.engine.at(self.world.rng.uniform(1.0, 1.8), self._elect)

    def _elect(self) -> None:
        able = [name for name in self.world.names if self._leads(name)]
        if not able:
            self.world.engine.at(0.4, self._elect)
            return
        self._electing = False
        self.leader = self.world.rng.choice(able)
        for key in self.leases:  # every lease begins anew
            self.leases[key] = self.world.engine.t + self.world.member_lease

    def _member_for(self, host: str) -> str:
        self.refresh()
        if not self.leader:
            return ""
        for member in (host, *(n for n in self.world.names if n != host)):
            if (
                member in self.members
                and self._alive(member)
                and self.world.reach(host, member, "etcd")
                and self._pair(member, self.leader)
            ):
                return member
        return ""

    def request(self, host: str, apply: Callable[[], Any], write: bool = True) -> Steps:
        """Ask: the result of ``apply``, or Unanswered; it may then have been applied, or be applied late."""
        world, rng = self.world, self.world.rng
        deadline = world.engine.t + world.times.request
        while True:
            yield world.latency()
            lost = world.loss and rng.random() < world.loss
            member = "" if lost else self._member_for(host)
            if member:
                result = apply()
                yield world.latency()
                if (world.loss and rng.random() < world.loss) or not world.reach(member, host, "etcd"):
                    yield max(0.0, deadline - world.engine.t)
                    raise Unanswered
                return result
            if lost and write and rng.random() < 0.5:
                world.engine.at(rng.uniform(0.2, 2 * world.times.ttl), lambda: self._late(apply))
                yield max(0.0, deadline - world.engine.t)
                raise Unanswered
            if world.engine.t >= deadline:
                raise Unanswered
            yield min(0.15, max(0.001, deadline - world.engine.t))

    def _late(self, apply: Callable[[], Any]) -> None:
        self.refresh()
        if self.leader:
            self.world.tell("etcd", "a request that was on its way for long arrives")
            apply()
