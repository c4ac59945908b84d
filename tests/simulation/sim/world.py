"""Three hosts, their network, etcd, clients and the troubles they have, all of it from one seed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from chefha_core import codec
from chefha_core.model import ClusterConfig, LeaderKey, LeaderState, Observation
from chefha_core.plan import plan
from chefha_core.plan.commands import Plan
from chefha_core.plan.policy import Policy, policy
from chefha_core.settings import GRACE, Secrets, Settings
from sim.directory import Data, Postmaster
from sim.engine import Engine, Steps
from sim.etcd import Etcd
from sim.host import Host
from sim.leaderl import Leaderl

NAMES = ("a", "b", "c")
VIP = "10.0.0.100"


@dataclass(frozen=True)
class Guards:
    """What keeps the cluster safe; each can be switched off to see that the simulator notices."""

    receiver_cut: bool = True
    take_compares: bool = True
    renew_compares: bool = True
    post_compares: bool = True
    address_lifetime: bool = True
    suspend_noticed: bool = True
    promise: bool = True
    lease_before_promotion: bool = True
    fresh_facts: bool = True
    history_compares: bool = True
    publish_compares: bool = True


class Violation(AssertionError):
    """An invariant does not hold; the message is the whole story."""


def settings(profile: str = "fast", durability: str = "quorum") -> Settings:
    """Settings of the simulated cluster."""
    members = {name: f"10.0.0.{number}" for number, name in enumerate(NAMES, 1)}
    return Settings(members=members, vip=VIP, secrets=Secrets("s", "r", "t"), profile=profile, durability=durability)


class World:
    """Everything, in virtual time."""

    def __init__(
        self,
        seed: int,
        durability: str = "quorum",
        profile: str = "fast",
        fresh: bool = False,
        guards: Guards | None = None,
        planner: Callable[[Observation, Policy], Plan] = plan,
        change_policy: Callable[[Policy], Policy] = lambda p: p,
    ) -> None:
        self.rng = random.Random(seed)
        self.engine = Engine()
        self.engine.after_step = self.check
        self.guards = guards or Guards()
        self.planner = planner
        self.policy = change_policy(policy(settings(profile, durability)))
        self.times = self.policy.times
        self.durability = durability
        self.names, self.members = NAMES, dict(self.policy.members)
        self.member_lease = max(5.0, 2 * self.times.ttl)
        self.story: list[tuple[float, str, str]] = []
        self.cuts: Counter[tuple[str, str, str]] = Counter()
        self.slow = 0.0
        self.loss = 0.0
        self.salt = self.rng.random() < 0.7
        self.holders: set[str] = set()
        self._candidates = tuple((name, f"candidates/{name}") for name in NAMES)
        self.etcd = Etcd(self)
        self.hosts = {n: Host(self, n, self.rng.uniform(0, 1e4), self.rng.choice((1.0, 1.001, 0.999))) for n in NAMES}
        self._records = 0
        self._leader: tuple[object, LeaderKey | None] = (None, None)
        # what the invariants need
        self.acknowledged: list[int] = []
        self.lost: set[int] = set()
        self.rejoins = self.leaders = 0
        self._timelines: dict[int, str] = {1: "a"}
        self._bad: dict[str, tuple[str, float]] = {}
        self._inits = 0
        self.promoted_by_hand = ""
        #: system identifier -> the records that restored data begins with
        self.restorable: dict[str, frozenset[int]] = {}
        self.generation = "system-0"
        #: what each host had flushed when restored data took the place of the cluster's
        self._given_up: dict[str, set[int]] = {}
        self.wiped = False
        if not fresh:
            self._established()
        self.etcd.leader = "a"
        for host in self.hosts.values():
            host.start_leaderl()
        for number in range(2):
            self.engine.spawn(self._client(number), None)

    def _established(self) -> None:
        """A cluster that runs, led by a."""
        put = self.etcd.put
        put("config", codec.dump(ClusterConfig("system-0")))
        put("initialiser", "a")
        put("sync", codec.dump(self.policy.sync_rule))
        put("leader", codec.dump(LeaderKey("a", 1, LeaderState.LEADING, 1)))
        put("history/1", json.dumps({"name": "a", "epoch": 1, "timeline": 1, "cause": "first"}))
        self._inits = 1
        for name in ("a", "b", "c"):
            pg = self.hosts[name].pg
            names = ("b", "c") if name == "a" and self.durability == "quorum" else ()
            pg.data = Data("system-0", [(1, 0)], 1, name == "a", False, name != "a", "" if name == "a" else "a", names)
            pg.pm = Postmaster(name == "a", up=True)
            if name != "a":
                pg.reconnect()

    # ---- small questions ----

    def make_leaderl(self, host: Host) -> Leaderl:
        return Leaderl(self, host)

    def latency(self) -> float:
        return self.rng.uniform(0.0003, 0.003) + (self.rng.random() * self.slow if self.slow else 0.0)

    def reach(self, source: str, target: str, plane: str) -> bool:
        """True if a message gets from one host to the other now."""
        hosts = self.hosts
        return hosts[source].up and hosts[target].up and not (source != target and self.cuts[source, target, plane])

    def by_address(self, address: str) -> str:
        return next((name for name, value in self.members.items() if value == address), "")

    def new_record(self) -> int:
        self._records += 1
        return self._records

    @property
    def leader(self) -> LeaderKey | None:
        """The leader key as etcd has it."""
        kv = self.etcd.kvs.get("leader")
        if kv is not self._leader[0]:
            self._leader = (kv, kv.decoded(codec.leader_key) if kv is not None else None)
        return self._leader[1]

    def react(self, epoch: int) -> None:
        """Salt's reactor asks the members to converge, soon, late, or not at all."""
        if not self.salt:
            return
        for host in self.hosts.values():
            for _ in range(self.rng.choice((0, 1, 1, 2))):
                self.engine.at(self.rng.choice((0.1, 0.2, 4.0)), lambda host=host: self._converge(host, epoch), host)  # type: ignore[misc]

    def _converge(self, host: Host, epoch: int) -> None:
        if host.leaderl is not None:
            host.leaderl.asked = max(host.leaderl.asked, epoch)
            host.poke()

    def spring(self, host: Host, what: str, seconds: float) -> None:
        """A trap's fault strikes."""
        if what == "pause":
            host.freeze()
            self.engine.at(seconds, host.thaw)
        elif what == "suspend":
            host.suspend()
            self.engine.at(seconds, lambda: host.resume(seconds))
        elif what == "stop leaderl" and host.leaderl is not None:
            leaderl = host.leaderl
            leaderl.frozen = True
            self.engine.at(seconds, leaderl.thaw)
        elif what == "crash":
            self.engine.at(0.0, host.power_off)
            self.engine.at(seconds, host.power_on)
        elif what == "kill leaderl":
            self.engine.at(0.0, host.kill_leaderl)
            self.engine.at(seconds, host.start_leaderl)
        elif what == "kill PostgreSQL":
            self.engine.at(0.0, host.pg.end)

    # ---- clients ----

    def _client(self, number: int) -> Steps:
        """Writes through the VIP, one commit after the other, and remembers what was acknowledged."""
        while True:
            yield self.rng.uniform(0.05, 0.3)
            for name in sorted(self.holders):
                host = self.hosts[name]
                pm = host.pg.pm
                if not host.pg.writable or host.frozen or pm is None or pm.hung_at is not None or pm.stopping:
                    continue
                record, waits, session = self.new_record(), [True], pm.sessions

                def acknowledge(record: int = record, name: str = name, waits: list[bool] = waits) -> None:
                    waits.clear()
                    self._acknowledged(name, record)

                host.pg.write(record, acknowledge)
                give_up = self.engine.t + 2.0
                while waits and self.engine.t < give_up and pm.alive and pm.sessions == session:
                    yield 0.03

    def _acknowledged(self, name: str, record: int) -> None:
        mine = self.hosts[name].pg.data
        if mine is not None and mine.system_id != self.generation and "config" in self.etcd.kvs:
            if any(record in held for other, held in self._given_up.items() if other != name):
                return  # confirmed by another before the restoration: only the news came late, to a paused machine
            self.violation(
                f"{name} acknowledged the write {record} on {mine.system_id}, and {self.generation} is the cluster's"
            )
        self.acknowledged.append(record)
        key = self.leader
        alone = "alone" in self.etcd.kvs and self.etcd.kvs["alone"].value == name
        if self.durability == "quorum" and not (self.wiped or alone) and not self._on_another(name, record):
            self.violation(f"{name} acknowledged the write {record}, which no other node has flushed")
        if self.durability == "quorum" and key is not None and key.name != name:
            data = self.hosts[key.name].pg.data
            if data is not None and all(entry[1] != record for entry in data.log):
                self.violation(f"{name} acknowledged the write {record}, which the leader {key.name} does not have")

    def _notice_generation(self) -> None:
        """Whose data is the cluster's; what was acknowledged before a restoration and is not in it is given up."""
        kv = self.etcd.kvs.get("config")
        system_id = kv.decoded(codec.cluster_config).system_id if kv is not None else self.generation
        if system_id != self.generation:
            self.tell("world", f"{system_id} is the cluster's data now")
            logs = {name: host.pg.data for name, host in self.hosts.items()}
            self._given_up = {n: {entry[1] for entry in d.log[: d.flushed]} for n, d in logs.items() if d is not None}
            self.generation = system_id
            kept = self.restorable.get(system_id)
            if kept is not None:
                self.acknowledged = [record for record in self.acknowledged if record in kept]

    def with_data(self) -> int:
        """How many hosts have the cluster's present data."""
        return sum(h.pg.data is not None and h.pg.data.system_id == self.generation for h in self.hosts.values())

    def give_up_what_is_lost(self, host: Host) -> None:
        """Somebody answers for it that ``host`` goes on with what it has."""
        assert host.pg.data is not None
        held = {entry[1] for entry in host.pg.data.log}
        self.lost |= set(self.acknowledged) - held
        self.acknowledged = [record for record in self.acknowledged if record in held]

    def _on_another(self, name: str, record: int) -> bool:
        for other, host in self.hosts.items():
            data = host.pg.data
            if other != name and data is not None and any(e[1] == record for e in reversed(data.log[: data.flushed])):
                return True
        return False

    # ---- what the invariants hear of ----

    def primary_decided(self, host: Host, timeline: int) -> None:
        """leaderl starts or promotes a primary: only the holder of the key may."""
        key = self.leader
        if key is not None and key.name != host.name:
            self.violation(f"{host.name} makes itself a primary although the leader key names {key.name}")

    def primary_started(self, host: Host, pm: Postmaster) -> None:
        """A primary is writable."""
        data, key = host.pg.data, self.leader
        assert data is not None
        if pm.by_hand or key is None or key.name != host.name:
            self.tell(host.name, f"PostgreSQL is a primary on timeline {data.timeline}, but does not lead")
            return
        self.tell(host.name, f"PostgreSQL is a primary on timeline {data.timeline}, log ends at {len(data.log)}")
        self.leaders += 1
        if data.system_id != self.generation and "config" in self.etcd.kvs:
            self.violation(f"{host.name} leads on {data.system_id}, and {self.generation} is the cluster's data")
        owner = self._timelines.setdefault(data.timeline, host.name)
        if owner != host.name:
            self.violation(f"{host.name} leads on timeline {data.timeline}, which was {owner}'s")
        missing = set(self.acknowledged) - {entry[1] for entry in data.log}
        if missing and self.durability == "quorum":
            self.violation(f"{host.name} leads without the acknowledged writes {sorted(missing)[:5]}")
        self.lost |= missing
        if missing:
            self.acknowledged = [r for r in self.acknowledged if r not in missing]

    def initialised(self, host: Host) -> None:
        """initdb runs."""
        self._inits += 1
        if self._inits > 1:
            self.violation(f"initdb on {host.name}, for the second time in this cluster")
        if "config" in self.etcd.kvs:
            self.violation(f"initdb on {host.name} although etcd knows a cluster")
        others = [name for name, other in self.hosts.items() if other.pg.data is not None]
        if others:
            self.violation(f"initdb on {host.name} although {', '.join(others)} has data")
        self._timelines[1] = host.name

    def address_added(self, host: Host) -> None:
        """The kernel was told to hold the address: only on a writable primary with the key."""
        key, pg = self.leader, host.pg
        if key is not None and key.name != host.name:
            self.violation(f"{host.name} takes the VIP although {key.name} has the key")
        if pg.pm is not None and not pg.pm.primary:
            self.violation(f"{host.name} takes the VIP although its PostgreSQL is a standby")
        self.check()

    # ---- after every step ----

    def check(self) -> None:
        """The invariants that can be seen at any instant."""
        self._notice_generation()
        if len(self.holders) > 1:
            self.violation(f"{' and '.join(sorted(self.holders))} hold the VIP at once")
        for name in self.holders | self._bad.keys():
            self._check_holder(self.hosts[name])
        kvs = self.etcd.kvs
        for name, candidacy in self._candidates:
            if candidacy in kvs:
                pm = self.hosts[name].pg.pm
                if not kvs[candidacy].decoded(codec.candidacy).epoch:
                    continue  # it counts nowhere
                if pm is not None and not pm.primary and pm.receiver is not None and pm.receiver.alive:
                    self.violation(f"{name} stands for election in etcd, but its WAL receiver streams")

    def _check_holder(self, host: Host) -> None:
        key, name, now = self.leader, host.name, self.engine.t
        why = ""
        if name in self.holders:
            if key is None or key.name != name:
                why = "without the leader key"
            elif not host.pg.writable:
                why = "without a writable primary"
        if not why:
            self._bad.pop(name, None)
            return
        before, since = self._bad.get(name, ("", now))
        if before != why:
            since = now
        self._bad[name] = (why, since)
        # what nobody can know is bounded by the lease, a death that leaderl sees by its next round
        until = host.leased_until + GRACE + 0.02
        if why == "without a writable primary":
            able = host.leaderl is not None and host.leaderl.freezer() is None
            until = since + (2 * self.times.request + self.times.interval + 0.5 if able else self.times.ttl + GRACE)
        if now > until:
            self.violation(f"{name} holds the VIP {why} for {now - since:.2f} s")

    def tell(self, who: str, what: str) -> None:
        self.story.append((self.engine.t, who, what))

    def violation(self, what: str) -> None:
        lines = [f"{t:9.3f} {who:>5}  {text}" for t, who, text in self.story[-120:]]
        raise Violation(
            "\n".join([f"after {self.engine.t:.3f} s: {what}", *lines, f"{self.engine.t:9.3f} WRONG  {what}"])
        )
