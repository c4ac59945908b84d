"""leaderl in the simulation: the real planner between a simulated observation and simulated commands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from chefha_core import codec
from chefha_core.leaderl.vip import HOLDING
from chefha_core.model import (
    EtcdView,
    LeaderState,
    Lease,
    MemberReport,
    Observation,
    PgFacts,
    Probe,
)
from chefha_core.plan import commands as c
from chefha_core.plan import fence
from chefha_core.settings import GRACE
from sim import act, jobs
from sim.engine import Nap, Owner, Steps
from sim.etcd import Unanswered
from sim.etcd import view as etcd_view

if TYPE_CHECKING:
    from sim.host import Host
    from sim.world import World


#: commands after which there is no need to look again at once
QUIET = (c.HoldAddress, c.Renew, c.AskLeader)


class Leaderl(Owner):
    """One process: everything in it is forgotten when it ends."""

    def __init__(self, world: World, host: Host) -> None:
        super().__init__(host)
        self.world, self.host, self.name = world, host, host.name
        self.policy = world.policy
        self.view: EtcdView | None = None
        self.last: EtcdView | None = None
        self.lease: Lease | None = None
        self.promised_until = 0.0
        self.took_at = self.asserted_at = self.retry_at = 0.0
        self.handed_over = self.standing = False
        self.stood_against = 0
        self.paused = False
        self.unfit, self.unfit_until = "", 0.0
        self.asked_at = 0.0
        self.prepared_for = self.restarts = self.failed_rejoins = self.new_starts = self.asked = 0
        self.waits: tuple[tuple[str, ...], int] = ((), 0)
        self.probe, self.probed_at, self.asking = Probe.UNKNOWN, -9.0, False
        self.job = ""
        self.job_task: Any = None
        self.role = ""
        self._facts: tuple[float, PgFacts] | None = None
        self._facts_pm: Any = None
        self._said: Any = None
        self._acted: tuple[c.Command, ...] = ()
        self._told: object = None
        self._told_at = 0.0
        self.task = world.engine.spawn(self.run(), self)

    def clock(self) -> float:
        return self.host.clock()

    def poke(self) -> None:
        self.task.poke()

    def thaw(self) -> None:
        """SIGCONT."""
        if self.frozen:
            self.world.engine.thaw(self)

    def end(self) -> None:
        self.task.kill()
        if self.job_task is not None:
            self.job_task.kill()

    def run(self) -> Steps:
        yield self.world.rng.uniform(0.0, 0.05)
        while True:
            wake = yield from self.round()
            yield Nap(min(max(0.003, (wake - self.clock()) / self.host.rate), self.policy.times.interval))

    def round(self) -> Steps:
        paused, self.paused = self.paused, False
        if paused:
            self.lease = None
            self.host.drop_address()
        seen = yield from self.observe(paused)
        plan = self.world.planner(seen, self.policy)
        self.role = plan.role
        acted = tuple(command for command in plan.commands if not isinstance(command, QUIET))
        self._log(plan)
        for command in plan.commands:
            if command.job and self.job:
                continue
            yield from self.trapped(command, "before")
            yield self.world.rng.uniform(0.0001, 0.002)
            if command.job:
                self._start_job(command)
                continue
            done = yield from act.quick(self, command)
            yield from self.trapped(command, "after")
            if not done:
                break
        yield from self._report(plan, seen)
        again = bool(acted) and acted != self._acted
        self._acted = acted
        return seen.now if again else plan.wake_at

    def trapped(self, command: c.Command, when: str) -> Steps:
        """An armed fault that waits for this command; ``when``: before or after."""
        for trap in self.host.traps:
            what, name, trap_when, seconds = trap
            if name == type(command).__name__ and trap_when == when:
                self.host.traps.remove(trap)
                self.world.tell(self.name, f"{what} {when} {name}")
                self.world.spring(self.host, what, seconds)
                yield 0.0005  # a frozen or dead host gets no further than this
                return

    # ---- observe ----

    def observe(self, paused: bool) -> Steps:
        etcd = self.world.etcd
        try:
            snapshot = yield from etcd.request(self.name, etcd.snapshot, write=False)
            self.view = etcd_view(snapshot, self.clock(), self.last)
            self.last = self.view
            if self.name not in self.view.candidates and self.view.leader_revision != self.stood_against:
                self.standing = False
        except Unanswered:
            self.view = None
        now, facts = self.clock(), self.facts()
        return Observation(
            now=now,
            name=self.name,
            etcd=self.view,
            pg=facts,
            last_etcd=self.last,
            lease=self.lease,
            address=self.host.has_address,
            probe=self.probe if now - self.probed_at < 1.0 else Probe.UNKNOWN,
            probe_age=now - self.probed_at,
            promised_until=self.promised_until,
            paused=paused,
            job=self.job,
            retry_at=self.retry_at,
            failed_rejoins=self.failed_rejoins,
            new_starts=self.new_starts,
            asked_to_converge=self.asked,
            took_at=self.took_at,
            asserted_at=self.asserted_at,
            handed_over=self.handed_over,
            prepared_for=self.prepared_for,
            restarts=self.restarts,
            staged=self.host.pg.restored.system_id if self.host.pg.restored else "",
            waits_since=self.waits[1] if self.waits[0] == facts.sync_names else 0,
            unfit=self.host.unfit or (self.unfit if now < self.unfit_until else ""),
            asked_at=self.asked_at,
            storage=self.host.storage,
            storage_hangs=self.host.storage_hangs,
            failover=self.host.failover,
        )

    def facts(self) -> PgFacts:
        """The monitor's last look, up to an interval old; a death is seen at once, own commands are waited for."""
        now, pg = self.clock(), self.host.pg
        old = self._facts
        died = old is not None and pg.pm is None and self._facts_pm is not None
        if old is None or died or now - old[0] > self.world.rng.random() * self.policy.times.interval:
            leader = self.last.leader.name if self.last and self.last.leader else ""
            old = self._facts = (now, pg.facts(leader))
            self._facts_pm = pg.pm
            if old[1].streaming:
                self.failed_rejoins = self.new_starts = 0
        return old[1]

    def forget_facts(self) -> None:
        """After a command that changed PostgreSQL, an earlier look says nothing."""
        if self.world.guards.fresh_facts:
            self._facts = None

    # ---- report ----

    def _report(self, plan: c.Plan, seen: Observation) -> Steps:
        pg, now = seen.pg, self.clock()
        if seen.etcd is None:
            return
        report = MemberReport(
            name=self.name,
            address=self.world.members[self.name],
            pg=pg.state,
            role=plan.role,
            position=pg.position,
            streaming=pg.streaming,
            checkpoint_timeline=pg.checkpoint_timeline,
            failover=self.host.failover,
            system_id=pg.system_id,
            storage=self.host.storage,
        )
        news = (report.pg, report.streaming, report.checkpoint_timeline, report.storage)
        if news == self._told and now < self._told_at + self.policy.times.interval * 1.9:
            return
        text = codec.dump(report)
        etcd = self.world.etcd
        try:
            yield from etcd.request(
                self.name, lambda: etcd.report(f"members/{self.name}", text, self.world.member_lease)
            )
            self._told, self._told_at = news, now
        except Unanswered:
            return

    def _log(self, plan: c.Plan) -> None:
        loud = tuple(type(command) for command in plan.commands if not isinstance(command, QUIET))
        said = (plan.role, loud, "".join(char for char in plan.reason if not char.isdigit()))
        if said != self._said:
            self._said = said
            names = ", ".join(_short(command) for command in plan.commands) or "nothing"
            self.world.tell(self.name, f"{plan.role}: {names}: {plan.reason}")

    # ---- jobs ----

    def _start_job(self, command: c.Command) -> None:
        self.job = type(command).__name__
        self.job_task = self.world.engine.spawn(self._job(command), self)

    def _job(self, command: c.Command) -> Steps:
        yield from jobs.job(self, command)
        self.job, self.job_task = "", None
        self.forget_facts()
        yield from self.trapped(command, "after")
        self.poke()

    # ---- asked by others ----

    def leads(self) -> Probe:
        """Answer to AskLeader."""
        valid = self.lease is not None and self.clock() < self.lease.sent_at + self.policy.times.ttl
        key = self.last.leader if self.last else None
        promoting = key is not None and key.name == self.name and key.state is LeaderState.PROMOTING
        return Probe.LEADS if valid and (self.host.pg.writable or promoting) else Probe.DENIES

    def failsafe(self, leader: str, epoch: int) -> bool:
        """Answer to AskFailsafe; a yes is a promise."""
        if self.standing or fence.failsafe_answer(self.view, self.last, self.name, leader, epoch):
            return False
        if self.world.guards.promise:
            self.promised_until = max(self.promised_until, self.clock() + self.policy.times.ttl + GRACE)
        return True

    def hold_lease(self, epoch: int, sent_at: float) -> None:
        """The hold on the key counts from before the request."""
        self.lease = Lease(epoch, sent_at)
        self.host.leased_until = (sent_at + self.policy.times.ttl - self.host.offset) / self.host.rate

    def address_lifetime(self, seconds: float) -> int:
        """Whole seconds that an address may live now."""
        if self.lease is None:
            return 0
        if not self.world.guards.address_lifetime:
            return 3600
        return math.floor(self.lease.sent_at + seconds - HOLDING - self.clock())


def _short(command: c.Command) -> str:
    fields = {k: v for k, v in vars(command).items() if k not in ("reason", "compared", "cause")}
    return f"{type(command).__name__}({', '.join(f'{k}={v}' for k, v in fields.items())})"
