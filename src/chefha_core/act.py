"""Carries commands out, in order, and stops at the first that fails; the next round sees what is true.

Decides nothing: each handler is the shortest way from a command to a part. Every command that changes who leads is a
transaction on the revision that the plan saw, so a late or repeated one changes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from chefha_core import codec, restoring
from chefha_core.leaderl.memory import SUSPENDED, Memory
from chefha_core.leaderl.peers import Peers
from chefha_core.leaderl.vip import Vip
from chefha_core.leaderl.worker import Worker
from chefha_core.model import Candidacy, ClusterConfig, LeaderKey, LeaderState, Lease, Observation, SyncRule
from chefha_core.parts import arp
from chefha_core.parts.address import Address, AddressError
from chefha_core.parts.etcd import Compare, Delete, EtcdClient, EtcdError, Put, TxnResult
from chefha_core.parts.postgres import Postgres, PostgresError
from chefha_core.plan import commands as c
from chefha_core.settings import Settings

log = logging.getLogger(__name__)

#: seconds for which a node that was elected and could not lead is not elected again
UNFIT = 60.0
#: rows of the history that are kept
KEPT_EPOCHS = 50
#: not worth a line in the log: they come with every round
QUIET = (c.HoldAddress, c.Renew, c.AskLeader)


class Failed(Exception):
    """A command could not be carried out; the text says why."""


class Actor:
    """The hands of one node."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        etcd: EtcdClient,
        postgres: Postgres,
        address: Address,
        peers: Peers,
        memory: Memory,
        worker: Worker,
    ) -> None:
        self.settings, self.name = settings, name
        self.etcd, self.postgres, self.address, self.peers = etcd, postgres, address, peers
        self.memory, self.worker = memory, worker
        self.vip = Vip(settings, address, memory)
        self.start_timeout = settings.leaderl.start_timeout_seconds
        self._beat = 0
        self._quick: dict[type[c.Command], Callable[[Any, Observation], None]] = {
            c.Renew: self._renew,
            c.TakeKey: self._take_key,
            c.ReleaseKey: self._release_key,
            c.PostCandidacy: self._post_candidacy,
            c.WithdrawCandidacy: self._withdraw_candidacy,
            c.AskHandOver: self._ask_hand_over,
            c.ClearIntent: self._clear_intent,
            c.ClearRestore: lambda command, seen: restoring.clear(self, command, seen),
            c.PublishRestore: lambda command, seen: restoring.publish(self, command),
            c.ClaimInitialisation: self._claim_initialisation,
            c.PublishCluster: self._publish_cluster,
            c.PublishSync: self._publish_sync,
            c.AskFailsafe: self._ask_failsafe,
            c.AskLeader: lambda command, seen: self.peers.ask_leader(command.name),
            c.HoldAddress: lambda command, seen: self.vip.hold(command),
            c.DropAddress: lambda command, seen: self.address.drop(),
            c.EndClientSessions: self._end_client_sessions,
            c.KillPostgres: lambda command, seen: self.worker.emergency(self._kill),
            c.Follow: lambda command, seen: self._set_role(command.upstream, seen.pg.sync_names),
        }
        self._jobs: dict[type[c.Command], Callable[[Any, Observation], object]] = {
            c.Slots: self._slots,
            c.CutReceiver: lambda command, seen: self.postgres.cut_receiver(timeout=self.settings.ttl),
            c.CatchUp: self._catch_up,
            c.Promote: self._promote,
            c.StartPrimary: self._start_primary,
            c.StartStandby: self._start_standby,
            c.SetSync: self._set_sync,
            c.StopPostgres: lambda command, seen: self.postgres.stop(
                "fast", self.settings.leaderl.handover_timeout_seconds
            ),
            c.Checkpoint: self._checkpoint,
            c.Rewind: self._rewind,
            c.Restart: self._restart,
            c.Clone: self._clone,
            c.SwapIn: lambda command, seen: self.postgres.swap_in(command.system_id),
            c.InitDb: lambda command, seen: self.postgres.initdb(),
        }

    def carry_out(self, commands: tuple[c.Command, ...], seen: Observation) -> None:
        """All of ``commands``, as far as they succeed."""
        for command in commands:
            kind = type(command).__name__
            if command.job:
                job = self._jobs[type(command)]
                self.worker.begin(kind, command.reason, lambda job=job, command=command: job(command, seen))  # type: ignore[misc]
                continue
            begun = time.monotonic()
            try:
                self._quick[type(command)](command, seen)
            except (Failed, EtcdError, PostgresError, AddressError, arp.ArpError, OSError, ValueError) as error:
                log.warning("%s failed: %s (%s)", kind, error, command.reason)
                self.memory.note(kind, command.reason, time.monotonic() - begun, str(error))
                return
            if not isinstance(command, QUIET) or (isinstance(command, c.HoldAddress) and command.take):
                log.info("%s: %s", kind, command.reason)
                self.memory.note(kind, command.reason, time.monotonic() - begun, "done")

    # ---- the leader key

    def write_key(
        self, key: LeaderKey, expect: int, also: tuple[Put | Delete, ...] = (), more: tuple[Compare, ...] = ()
    ) -> float:
        """Write the key if it is unchanged; the clock from before the request, where a lease may begin."""
        unchanged = Compare.mod_revision("leader", expect)
        # Numbered, so that no two writes are alike: what stands there after a lost answer tells whether it is this one.
        self._beat = max(self._beat + 1, key.beat)
        value = codec.dump(dataclasses.replace(key, beat=self._beat))
        sent_at = time.monotonic()
        result = self.etcd.txn([unchanged, *more], [Put("leader", value), *also])
        if self._stands(result, "leader", value):
            return sent_at
        if not result.doubtful and self.memory.lease and self.memory.lease.epoch != key.epoch:
            self.memory.lease = None
        raise Failed("etcd has changed since it was read: looking again")

    def _stands(self, result: TxnResult, key: str, value: str) -> bool:
        """Whether a write was done, if only by its first attempt, whose answer came too late."""
        if result.succeeded or not result.doubtful:
            return result.succeeded
        found = self.etcd.get(key)
        return found is not None and found.value == value

    def _renew(self, command: c.Renew, seen: Observation) -> None:
        key = LeaderKey(self.name, command.epoch, command.state, command.timeline, command.lsn, beat=command.beat)
        known = seen.etcd.timelines if seen.etcd else frozenset()
        # a timeline that did not come with the epoch is written down for good: what nobody was given is nobody's log
        also = () if command.timeline in known else (Put(f"timelines/{command.timeline}", self.name),)
        # nor is a key that was deleted by hand written again by a leader whom another has followed meanwhile
        latest = (Compare.absent(f"history/{command.epoch + 1}"),)
        self.memory.lease = Lease(command.epoch, self.write_key(key, command.expect, also, latest))
        before = seen.etcd.leader.state if seen.etcd and seen.etcd.leader else command.state
        if before is LeaderState.RELEASING:  # nobody else came: what was in vain so far is tried again
            self.memory.restarts = self.memory.failed_rejoins = 0
        if command.state is LeaderState.LEADING and before is not command.state:
            log.info("now leading epoch %d on timeline %d", command.epoch, command.timeline)

    def _take_key(self, command: c.TakeKey, seen: Observation) -> None:
        lsn = seen.pg.position.lsn if seen.pg.position else 0
        key = LeaderKey(self.name, command.epoch, LeaderState.PROMOTING, command.timeline, lsn)
        history = codec.new_history(command.epoch, self.name, command.previous, command.cause, command.timeline)
        unchanged = tuple(Compare.mod_revision(f"candidates/{x.name}", x.mod_revision) for x in command.compared)
        also = (
            Put(f"history/{command.epoch}", json.dumps(history)),
            Delete("intent"),
            Delete("force"),
            Delete(f"candidates/{self.name}"),
            Delete(f"history/{command.epoch - KEPT_EPOCHS}"),
        )
        forced = (Compare.mod_revision("force", command.force),) if command.force else ()
        more = (*unchanged, *forced, Compare.absent(f"history/{command.epoch}"))
        sent_at = self.write_key(key, command.expect, also, more)
        self.memory.standing = False
        self.memory.handed_over = not command.compared
        self.memory.took_at = sent_at
        self.memory.restarts = self.memory.new_starts = 0
        self.memory.lease = Lease(command.epoch, sent_at)
        # Beside everything else, so that nobody has to wait for it later: no commit is acknowledged before a follower
        # streams, and none streams without its slot. For the address of a leader that handed over nobody asks.
        removed = seen.etcd.removed if seen.etcd else frozenset()
        others = [name for name in self.settings.members if name not in removed | {self.name}]
        self.worker.aside(lambda: self.postgres.ensure_slots(others))
        if command.compared:
            self.worker.aside(self.vip.check)

    def _release_key(self, command: c.ReleaseKey, seen: Observation) -> None:
        key = LeaderKey(
            self.name, command.epoch, LeaderState.RELEASING, command.timeline, command.lsn, command.to, command.clean
        )
        result = json.dumps({"epoch": command.epoch, "to": command.to, "outcome": "released", "reason": command.reason})
        self.write_key(key, command.expect, (Put("intent_result", result), Delete("intent")))
        if not command.clean and not command.fit:
            self.memory.unfit, self.memory.unfit_until = command.reason, time.monotonic() + UNFIT

    # ---- elections and agreements

    def _post_candidacy(self, command: c.PostCandidacy, seen: Observation) -> None:
        assert seen.etcd is not None
        candidacy = Candidacy(self.name, command.epoch, command.position, command.fit)
        with self.memory.standing_lock:
            if time.monotonic() < self.memory.promised_until:
                raise Failed("this node has promised the leader not to stand")
            self.memory.standing, self.memory.stood_against = True, seen.etcd.leader_revision
            self._write_candidacy(candidacy, seen)
        self.memory.asserted_at = time.monotonic()

    def _write_candidacy(self, candidacy: Candidacy, seen: Observation) -> None:
        """Compared with the leader key and with what stands there: a request that hangs in a stopped etcd member must
        not be applied later, when the receiver is connected again.
        """
        assert seen.etcd is not None
        key, value = f"candidates/{self.name}", codec.dump(candidacy)
        before = self.etcd.get(key)
        own = Compare.mod_revision(key, before.mod_revision if before else 0)
        result = self.etcd.txn([Compare.mod_revision("leader", seen.etcd.leader_revision), own], [Put(key, value)])
        if not self._stands(result, key, value):
            raise Failed("the leader key or the own candidacy has changed: looking again")

    def _withdraw_candidacy(self, command: c.WithdrawCandidacy, seen: Observation) -> None:
        self.etcd.txn([], [Delete(f"candidates/{self.name}")])
        self.memory.standing = False

    def _ask_hand_over(self, command: c.AskHandOver, seen: Observation) -> None:
        wish = {"to": "", "by": f"{self.name} itself ({command.reason})", "epoch": command.epoch}
        # Compared with the leader key: a request that hangs must not be applied later, when the disk is well again.
        now = Compare.mod_revision("leader", self._revision_now(seen))
        also = (Put("intent", json.dumps(wish)), Delete("intent_result"))
        if not self.etcd.txn([Compare.absent("intent"), now], also).succeeded:
            raise Failed("somebody else asked for a hand-over at this moment")
        self.memory.asked_at = time.monotonic()

    def _clear_intent(self, command: c.ClearIntent, seen: Observation) -> None:
        assert seen.etcd is not None and seen.etcd.intent is not None
        result = json.dumps({"epoch": command.epoch, "to": command.to, "outcome": "refused", "reason": command.outcome})
        unchanged = Compare.mod_revision("intent", seen.etcd.intent.mod_revision)
        self.etcd.txn([unchanged], [Delete("intent"), Put("intent_result", result)])

    def _claim_initialisation(self, command: c.ClaimInitialisation, seen: Observation) -> None:
        free = [Compare.absent("initialiser"), Compare.absent("config"), Compare.absent("leader")]
        if not self.etcd.txn(free, [Put("initialiser", self.name)]).succeeded:
            raise Failed("another member creates the cluster")

    def _publish_cluster(self, command: c.PublishCluster, seen: Observation) -> None:
        key = LeaderKey(self.name, 1, LeaderState.LEADING, command.timeline)
        history = codec.new_history(1, self.name, "", "first leader", command.timeline)
        also = (
            Put("config", codec.dump(ClusterConfig(command.system_id))),
            Put("sync", codec.dump(command.sync)),
            Put("history/1", json.dumps(history)),
            Delete("initialiser"),
            Delete("bootstrap"),
            *_alone(command.sync, self.name),
        )
        sent_at = self.write_key(key, 0, also, (Compare.absent("config"), Compare.value("initialiser", self.name)))
        self.memory.lease = Lease(1, sent_at)

    def _publish_sync(self, command: c.PublishSync, seen: Observation) -> None:
        assert seen.etcd is not None
        leads = Compare.mod_revision("leader", self._revision_now(seen))
        rule: SyncRule = command.rule
        if not self.etcd.txn([leads], [Put("sync", codec.dump(rule)), *_alone(rule, self.name)]).succeeded:
            raise Failed("the leader key has changed: looking again")

    def _revision_now(self, seen: Observation) -> int:
        """The leader key's revision, which a renewal earlier in this round may have moved."""
        kv = self.etcd.get("leader")
        if kv is None or seen.lease is None or codec.leader_key(kv).epoch != seen.lease.epoch:
            raise Failed("this node does not lead any more")
        return kv.mod_revision

    def _ask_failsafe(self, command: c.AskFailsafe, seen: Observation) -> None:
        asked_at = time.monotonic()
        refusals = self.peers.ask_failsafe(command.epoch)
        if refusals:
            raise Failed("; ".join(refusals))
        self.memory.lease = Lease(command.epoch, asked_at)

    # ---- PostgreSQL, quick

    def _set_role(self, upstream: str, sync_names: tuple[str, ...]) -> None:
        self.postgres.set_role(upstream, sync_names)
        self.worker.look()

    def _end_client_sessions(self, command: c.EndClientSessions, seen: Observation) -> None:
        """A session that does not end must not keep anything else from happening: PostgreSQL is stopped anyway."""
        try:
            self.postgres.end_client_sessions()
        except PostgresError as error:
            log.warning("%s", error)

    def _slots(self, command: c.Slots, seen: Observation) -> None:
        self.postgres.ensure_slots(command.names)
        self.postgres.drop_slots([name for name in seen.pg.slots if name not in command.names])

    def _kill(self) -> None:
        self.postgres.stop("immediate", 5.0)

    # ---- PostgreSQL, jobs

    def _still_leads(self, command: c.Command) -> None:
        """Once more before a primary is made: is the epoch still this node's?"""
        kv = self.etcd.get("leader")
        key = codec.leader_key(kv) if kv else None
        lease = self.memory.lease
        if key is None or lease is None or (key.name, key.epoch) != (self.name, lease.epoch):
            raise Failed(f"not done, {key.name if key else 'nobody'} leads now: {command.reason}")
        if time.monotonic() >= lease.sent_at + self.settings.ttl:  # stopped or paused since etcd answered
            raise Failed(f"not done, the lease has ended: {command.reason}")
        if self.memory.was_suspended():
            raise Failed(SUSPENDED)

    def _catch_up(self, command: c.CatchUp, seen: Observation) -> None:
        assert seen.pg.position is not None
        # Of no epoch, so it counts nowhere; not deleted, so that what still hangs on its way to etcd is not applied.
        self._write_candidacy(Candidacy(self.name, 0, seen.pg.position, fit=False), seen)
        self.postgres.catch_up(command.upstream, command.position, timeout=self.settings.ttl)

    def _promote(self, command: c.Promote, seen: Observation) -> None:
        self._still_leads(command)
        self.memory.restarts += 1
        if set(seen.pg.sync_names) != set(command.sync_names):
            self.postgres.set_role("", command.sync_names)
        self.postgres.promote(command.timeline, self.start_timeout)
        if seen.pg.upstream:
            self.worker.aside(lambda: self.postgres.set_role("", command.sync_names))
        self.memory.restarts = 0

    def _start_primary(self, command: c.StartPrimary, seen: Observation) -> None:
        if seen.etcd is not None and seen.etcd.config is not None:
            self._still_leads(command)
        self.memory.restarts += 1
        if command.kill_first:
            self.postgres.stop("immediate", 5.0)
        self.postgres.set_role("", command.sync_names)
        self.postgres.start(primary=True, timeout=self.start_timeout)
        self.memory.restarts = 0

    def _start_standby(self, command: c.StartStandby, seen: Observation) -> None:
        self.postgres.set_role(command.upstream, ())
        self._rejoin(lambda: self.postgres.start(primary=False, timeout=self.start_timeout))

    def _set_sync(self, command: c.SetSync, seen: Observation) -> None:
        self.memory.waits = ((), 0)
        self.postgres.set_role("", command.sync_names)
        position = self.postgres.observe(timeout=2.0).position  # whatever nobody waited for ends before it
        self.memory.waits = (command.sync_names, position.lsn if position else 0)

    def _checkpoint(self, command: c.Checkpoint, seen: Observation) -> None:
        self.postgres.checkpoint()
        if command.prepares:
            self.memory.prepared_for = command.prepares

    def _rewind(self, command: c.Rewind, seen: Observation) -> None:
        self._rejoin(lambda: self._rewind_and_start(command.upstream))

    def _rewind_and_start(self, upstream: str) -> None:
        self.postgres.stop("fast", self.start_timeout)
        self.postgres.rewind(upstream, timeout=3600.0)
        self._follow_anew(upstream)

    def _restart(self, command: c.Restart, seen: Observation) -> None:
        def restart() -> None:
            self.postgres.stop("immediate", 5.0)  # what hangs would keep an orderly stop from ending
            self._follow_anew(command.upstream)

        self.memory.new_starts = command.new_starts
        self._rejoin(restart)

    def _clone(self, command: c.Clone, seen: Observation) -> None:
        def clone() -> None:
            self.postgres.stop("immediate", 5.0)
            self.postgres.clone(command.upstream, timeout=24 * 3600.0)
            self._follow_anew(command.upstream)

        self.memory.new_starts = command.new_starts
        self._rejoin(clone)

    def _follow_anew(self, upstream: str) -> None:
        self.postgres.set_role(upstream, ())
        self.postgres.start(primary=False, timeout=self.start_timeout)

    def _rejoin(self, attempt: Callable[[], None]) -> None:
        """One attempt to follow; failures are counted and back off, 2 s to 5 minutes."""
        try:
            attempt()
        except PostgresError:
            self.memory.failed_rejoins += 1
            self.memory.retry_at = time.monotonic() + min(300.0, 2.0 ** min(self.memory.failed_rejoins, 9))
            raise
        self.memory.retry_at = 0.0


def _alone(rule: SyncRule, name: str) -> tuple[Put | Delete]:
    """Who is alone is known in etcd from the rule of one on, until there is another rule."""
    return (Put("alone", name),) if rule.voters == (name,) else (Delete("alone"),)
