"""leaderl's loop: observe, plan, act, and again when a bell rings or the plan says so."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from typing import Any

from chefha_core import __version__, codec
from chefha_core.act import QUIET, Actor
from chefha_core.leaderl.disk_monitor import Storage, disk_monitor
from chefha_core.leaderl.learners import Learners
from chefha_core.leaderl.memory import Memory
from chefha_core.leaderl.peers import Peers
from chefha_core.leaderl.report import Reporter, changed
from chefha_core.leaderl.roles import Roles
from chefha_core.leaderl.search_monitor import OFFLINE, search_monitor
from chefha_core.leaderl.worker import Worker
from chefha_core.model import LeaderState, MemberReport, Observation, PgFacts, PgState
from chefha_core.observe import observe
from chefha_core.parts.address import Address, AddressError
from chefha_core.parts.clock import PAUSE, suspended
from chefha_core.parts.etcd import Compare, EtcdError, Put
from chefha_core.parts.etcd_access import ROOT, forget_others, member_user
from chefha_core.parts.etcd_watch import Doorbell
from chefha_core.parts.postgres import Postgres
from chefha_core.parts.postgres_clone import leftovers
from chefha_core.parts.postgres_monitor import PostgresMonitor
from chefha_core.plan import plan
from chefha_core.plan.commands import Command, Plan
from chefha_core.plan.fence import failsafe_answer
from chefha_core.plan.policy import policy
from chefha_core.plan.restore import why_old_data_goes
from chefha_core.settings import GRACE, Settings
from chefha_core.verbs.reach import etcd_client

log = logging.getLogger(__name__)

#: keys whose change is worth a look at once; renewals and reports are not
RINGS = (
    *("candidates/", "intent", "restore", "config", "initialiser", "sync", "switches/"),
    *("force", "alone", "removed/", "bootstrap"),
)


class Leaderl:
    """One node's leaderl: its parts, its memory and its threads."""

    def __init__(self, settings: Settings, name: str, postgres: Postgres) -> None:
        self.settings, self.name, self.postgres = settings, name, postgres
        self.policy = policy(settings)
        self.times = self.policy.times
        self.tokens = settings.secrets.tokens
        self.memory = Memory()
        self.etcd = etcd_client(settings, name, settings.request_timeout)
        self.address = Address(settings.vip, settings.vip_interface)
        self.monitor = PostgresMonitor(postgres, self.times.interval, on_change=lambda facts: self.memory.bell.set())
        self.search = search_monitor(settings, name, self._search_changed)
        self._search_changed()
        self.disks = disk_monitor(settings, self._storage_changed)
        self.peers = Peers(settings, name, self.memory, self.times.probe_deadline)
        self.worker = Worker(self.memory, self.monitor.look)
        self.roles = Roles(postgres, self.worker.aside)
        self.learners = Learners(settings, name, self.worker.aside)
        self.actor = Actor(settings, name, self.etcd, postgres, self.address, self.peers, self.memory, self.worker)
        self.reporter = Reporter(
            etcd_client(settings, name, settings.request_timeout),
            name,
            self.report,
            self.times.interval,
            settings.report_life,
        )
        self.doorbell = Doorbell(
            etcd_client(settings, name, settings.request_timeout),
            self._heard,
            on_gap=self.memory.bell.set,
            idle=max(5.0, 2 * settings.ttl),
        )
        self.memory.slept = suspended()
        self._told: tuple[str, str] = ("", "")
        self._reported: MemberReport | None = None
        self._recorded = 0
        self._tidied = False
        self._users_tidied = False
        self._acted: tuple[Command, ...] = ()

    # ---- the loop

    def run(self) -> None:
        """Rounds for ever."""
        self.monitor.look()  # no round may take "not looked yet" for an empty data directory
        self.monitor.start()
        self.doorbell.start()
        self.reporter.start()
        self.roles.started()
        self.disks.start()
        if self.search:
            self.search.start()
        while True:
            try:
                wake_at = self.round().wake_at
            except Exception:  # the lease runs out meanwhile, and the kernel drops the address
                log.exception("a round failed")
                wake_at = time.monotonic() + self.times.interval
            self.memory.bell.wait(max(0.002, wake_at - time.monotonic()))
            self.memory.bell.clear()

    def round(self) -> Plan:
        """One round; never raises for what can happen to a node."""
        paused = self._paused()
        if paused:
            self._forget_the_lease()
        seen = self._observe(paused)
        decided = plan(seen, self.policy)
        if (decided.role, decided.reason) != self._told:
            log.info("%s: %s", decided.role, decided.reason)
            self._told = (decided.role, decided.reason)
        self.memory.role, self.memory.reason = decided.role, decided.reason
        self.actor.carry_out(decided.commands, seen)
        self._after(seen)
        acted = tuple(command for command in decided.commands if not isinstance(command, QUIET))
        if acted and acted != self._acted:
            self.memory.bell.set()  # something changed: look at once, but not again and again at the same
        self._acted = acted
        return decided

    def _paused(self) -> bool:
        """True if the machine was suspended since the last round."""
        slept = suspended()
        paused, self.memory.slept = slept - self.memory.slept > PAUSE, slept
        return paused

    def _forget_the_lease(self) -> None:
        """Before anything is asked: another may lead by now, and the address's lifetime stood still, too."""
        self.memory.lease = None
        try:
            if self.address.present():
                self.address.drop()
        except AddressError as error:
            log.warning("after a pause of the machine: %s", error)

    def _observe(self, paused: bool) -> Observation:
        job = self.memory.job  # before the facts: a job that is over has had PostgreSQL looked at
        facts: PgFacts = self.monitor.recent_facts()
        self.monitor.history_from = self._upstream()
        if facts.streaming:
            self.memory.failed_rejoins = 0
            if not facts.without_stream:
                self.memory.new_starts = 0
        staged, ttl = self.postgres.staged(), self.times.ttl
        return observe(self.name, self.etcd, self.address, facts, self.memory, job, paused, ttl, staged)

    def _upstream(self) -> str:
        """Whose timeline history the monitor should read while this node does not stream."""
        view = self.memory.last_view
        leader = view.leader.name if view and view.leader else ""
        return "" if leader in ("", self.name) else self.settings.members.get(leader, "")

    def _after(self, seen: Observation) -> None:
        report = self.report()
        if changed(self._reported, report):
            self._reported = report
            self.reporter.bell.set()
        key = seen.etcd.leader if seen.etcd else None
        if key and key.name == self.name and key.state is LeaderState.LEADING and seen.address:
            self.roles.leading(key.epoch)
            self.learners.leading()
            if self._recorded != key.epoch:
                self._recorded = key.epoch
                self._record(key.epoch)
        self._tidy(seen)
        self._tidy_users(seen)
        with self.memory.round_done:
            self.memory.round_done.notify_all()

    def _tidy(self, seen: Observation) -> None:
        """Once new data has proved itself, what it replaced is deleted; tried once, then left to people."""
        why = why_old_data_goes(seen, self.policy)
        if not why:
            self._tidied = False
        elif not self._tidied and (old := leftovers(self.postgres.places)):
            self._tidied = True
            log.info("%s: deleting %s", why, ", ".join(map(str, old)))
            self.worker.aside(self.postgres.forget_old_data)

    def _tidy_users(self, seen: Observation) -> None:
        """Once every member has come to etcd by the new user, the leader deletes the former ones; tried once, too."""
        own, view = member_user(self.settings), seen.etcd
        if not own or self.settings.etcd_endpoints or view is None:
            return
        if {view.members[name].etcd_user if name in view.members else "" for name in self.settings.members} != {own}:
            self._users_tidied = False
        elif view.leader and view.leader.name == self.name and not self._users_tidied:
            self._users_tidied = True
            self.worker.aside(self._forget_users)

    def _forget_users(self) -> None:
        password = self.settings.secrets.etcd_root_password
        client = etcd_client(self.settings, self.name, 5.0, user=ROOT, password=password)
        try:
            if gone := forget_others(client, self.settings):
                log.info("every member uses another user of etcd by now: deleted %s", ", ".join(gone))
        except EtcdError as error:
            log.warning("former users of etcd are not deleted: %s", error)
        finally:
            client.close()

    def _record(self, epoch: int) -> None:
        """Complete history/EPOCH with what the take-over consisted of."""
        try:
            kv = self.etcd.get(f"history/{epoch}")
            if kv is None or not self.memory.took_at:
                return
            row = {
                **json.loads(kv.value),
                "steps": self._steps(epoch),
                "seconds": round(time.monotonic() - self.memory.took_at, 3),
            }
            self.etcd.txn(
                [Compare.mod_revision(f"history/{epoch}", kv.mod_revision)], [Put(f"history/{epoch}", json.dumps(row))]
            )
        except EtcdError as error:
            log.warning("history/%d not completed: %s", epoch, error)

    def _heard(self, key: str, kind: str, value: str | None, revision: int, at: float) -> None:
        """An event from etcd: when did the key change, and is it worth a look at once?"""
        if key == "leader":
            self.memory.heard = (revision, at)
            known = self.memory.view.leader if self.memory.view else None
            data = json.loads(value) if value else {}
            if known is None or (data.get("epoch"), data.get("state")) != (known.epoch, known.state.value):
                if data.get("state") == LeaderState.RELEASING.value:
                    self.monitor.look()  # what arrived last decides who may take over
                self.memory.bell.set()
        elif key.startswith(RINGS):
            self.memory.bell.set()

    def _search_changed(self) -> None:
        """A member whose search is offline may be one that must not lead."""
        fatal = self.settings.leaderl.health_check.search_fatal
        offline = self.search is not None and self.search.state == OFFLINE
        self.memory.search_unfit = "its search is offline, and search_fatal is on" if fatal and offline else ""
        self.memory.bell.set()

    def _storage_changed(self, storage: Storage) -> None:
        """A member whose storage is in trouble must not lead."""
        self.memory.storage, self.memory.storage_hangs = storage.trouble, storage.hangs
        self.memory.bell.set()

    # ---- what others see

    def report(self) -> MemberReport:
        """What this member says of itself in etcd."""
        facts = self.monitor.facts
        return MemberReport(
            name=self.name,
            address=self.settings.members[self.name],
            pg=facts.state,
            role=self.memory.role,
            position=facts.position,
            streaming=facts.streaming,
            checkpoint_timeline=facts.checkpoint_timeline,
            system_id=facts.system_id,
            reason=self.memory.reason,
            failover=self.memory.electable(self.name),
            version=__version__,
            vip=self.address.present(),
            etcd_user=member_user(self.settings),
            search=self.search.state if self.search else "",
            storage=self.memory.storage,
        )

    def leading(self) -> int:
        """The epoch that this node leads now as a writable primary, 0 if none: what GET /leader asks."""
        return self.memory.leads(self.settings.ttl) if self.monitor.facts.state is PgState.PRIMARY else 0

    def status(self) -> dict[str, Any]:
        """Everything about this node as plain data, without secrets."""
        view = self.memory.view or self.memory.last_view
        key = view.leader if view else None
        return {
            **json.loads(codec.dump(self.report())),
            "cluster": self.settings.cluster,
            "leader": key.name if key else "",
            "epoch": key.epoch if key else 0,
            "etcd": self.memory.view is not None,
            "job": self.memory.job,
            "streaming_from_here": list(self.monitor.facts.standbys),
            "slots": sorted(self.monitor.facts.slots),
            "last_heard": {name: str(said.position or said.pg) for name, said in view.members.items()} if view else {},
            "problem": self.monitor.facts.problem,
            "search_problem": self.search.problem if self.search else "",
            "storage_problem": self.disks.storage.problem,
            "disks": [dataclasses.asdict(disk) for disk in self.disks.storage.disks],
            "steps": self._steps(key.epoch if key else 0),
        }

    def metrics(self) -> str:
        """The same for Prometheus."""
        status, facts = self.status(), self.monitor.facts
        rows = {
            "chefha_leader": int(bool(self.leading())),
            "chefha_epoch": status["epoch"],
            "chefha_vip": int(status["vip"]),
            "chefha_etcd_quorum": int(status["etcd"]),
            "chefha_streaming": int(facts.streaming),
            "chefha_timeline": facts.position.timeline if facts.position else 0,
            "chefha_wal_position_bytes": facts.position.lsn if facts.position else 0,
            "chefha_failed_rejoins": self.memory.failed_rejoins,
        }
        storage = self.disks.storage
        rows["chefha_storage_well"] = int(not storage.trouble)
        rows["chefha_storage_failures"] = storage.failures
        for disk in storage.disks:
            rows[f'chefha_storage_free_bytes{{folder="{disk.folder}"}}'] = disk.free
            rows[f'chefha_storage_write_seconds{{folder="{disk.folder}"}}'] = disk.seconds
        if self.search:
            rows["chefha_search_online"] = int(self.search.state != OFFLINE)
            rows["chefha_search_master"] = int(self.search.state == "master")
        return "".join(f"{name} {value}\n" for name, value in rows.items())

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """To another member's signed question."""
        if question.get("question") == "leads":
            return {"epoch": self.memory.leads(self.settings.ttl)}
        if question.get("question") != "failsafe":
            return {"agreed": False, "reason": f"{self.name} does not know the question"}
        return self._promise(str(question.get("leader")), int(question.get("epoch", 0)))

    def _promise(self, leader: str, epoch: int) -> dict[str, Any]:
        """Agree that ``leader`` goes on without etcd, and not to stand for election for as long, or say why not."""
        memory = self.memory
        if not memory.standing_lock.acquire(timeout=self.times.probe_deadline / 2):
            return {"agreed": False, "reason": f"{self.name} is standing for election"}
        try:
            reason = failsafe_answer(memory.view, memory.last_view, self.name, leader, epoch)
            if memory.standing:
                reason = reason or f"{self.name} stands for election"
            if not reason:
                memory.promised_until = time.monotonic() + self.settings.ttl + GRACE
        finally:
            memory.standing_lock.release()
        return {"agreed": not reason, "reason": reason}

    # ---- what Salt asks for

    def converge(self, epoch: int, timeout: float) -> dict[str, Any]:
        """Act now for ``epoch`` (0: the present one), and wait until this node is what etcd says it is."""
        deadline = time.monotonic() + timeout
        while True:
            view = self.memory.view
            now_epoch = view.leader.epoch if view and view.leader else 0
            if epoch and now_epoch > epoch:
                return self._converged(f"epoch {epoch} is over, {now_epoch} is the present one: nothing done", True)
            if now_epoch and now_epoch >= epoch and self.memory.asked_to_converge < now_epoch:
                self.memory.asked_to_converge = now_epoch
                self.memory.bell.set()
            if now_epoch and now_epoch >= epoch and self._in_role():
                return self._converged(self.memory.reason, True)
            left = deadline - time.monotonic()
            if left <= 0:
                return self._converged(f"not converged within {timeout:g} s: {self.memory.reason}", False)
            with self.memory.round_done:
                self.memory.round_done.wait(min(left, 0.2))

    def _in_role(self) -> bool:
        view, facts = self.memory.view, self.monitor.facts
        if view is None or view.leader is None or self.memory.job:
            return False
        if view.leader.name == self.name:
            return (
                view.leader.state is LeaderState.LEADING and facts.state is PgState.PRIMARY and self.address.present()
            )
        upstream = self.settings.members.get(view.leader.name, "")
        return facts.state is PgState.STANDBY and facts.streaming and facts.upstream == upstream

    def _converged(self, reason: str, converged: bool) -> dict[str, Any]:
        view = self.memory.view
        epoch = view.leader.epoch if view and view.leader else 0
        return {
            "epoch": epoch, "leader": view.leader.name if view and view.leader else "", "role": self.memory.role,
            "reason": reason, "converged": converged, "steps": self._steps(epoch),
        }  # fmt: skip

    def _steps(self, epoch: int) -> list[dict[str, Any]]:
        return [step.row() for step in list(self.memory.steps) if step.epoch == epoch][-30:]
