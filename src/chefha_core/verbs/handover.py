"""promote and demote: a planned hand-over is asked for in etcd, and watched until it has happened or has not.

The verb only asks (key ``intent``); the leader's leaderl carries it out and deletes the request. So a verb that is
killed leaves nothing half done: leaderl ignores a request for an epoch that is over.
"""

from __future__ import annotations

import datetime
import time
from typing import Any

from chefha_core import codec
from chefha_core.model import EtcdView, LeaderKey, LeaderState
from chefha_core.parts.etcd import Compare, Delete, EtcdClient, EtcdError, Put, Snapshot
from chefha_core.plan.handover import why_not_eligible
from chefha_core.settings import Settings
from chefha_core.verbs.reach import PATIENCE, VerbError, etcd_client
from chefha_core.verbs.steps import OnStep, Steps, nobody_looks

#: seconds between two looks at etcd while a hand-over is under way
LOOK = 0.05
#: seconds a dropped request may stay without a word about why
SILENCE = 2.0
STEPS = ("hand-over asked for", "old leader gives up", "new leader promotes", "new leader leads")


def promote(settings: Settings, name: str, to: str, timeout: float, on_step: OnStep = nobody_looks) -> dict[str, Any]:
    """Planned hand-over to the member ``to`` (name or address); VerbError with the reason if it does not come about."""
    member = next((n for n, address in settings.members.items() if to in (n, address)), to)
    return _hand_over(settings, name, member, timeout, on_step)


def demote(settings: Settings, name: str, timeout: float, on_step: OnStep = nobody_looks) -> dict[str, Any]:
    """This member, the leader, hands over to whichever other is eligible."""
    return _hand_over(settings, name, "", timeout, on_step)


def promotion_refusal(settings: Settings, view: EtcdView, to: str) -> str:
    """Why ``to`` cannot be promoted now, "" if it can; pure."""
    asked = f"promote {to}"
    if to not in settings.members:
        return f"{asked}: no such member; the cluster has {', '.join(settings.members)}"
    if view.leader and view.leader.name == to:
        return f"{asked}: {to} is the leader already, so there is nothing to do"
    general = _general_refusal(view, asked)
    unfit = unfitness(settings, view, to)
    return general or (f"{asked}: {unfit}; see who can take over with cluster-status --wide" if unfit else "")


def demotion_refusal(settings: Settings, view: EtcdView, name: str) -> str:
    """Why ``name`` cannot hand over now, "" if it can; pure."""
    if view.leader and view.leader.name != name:
        return f"demote: {name} is not the leader, {view.leader.name} is; run it there"
    if general := _general_refusal(view, "demote"):
        return general
    if name in view.switched_off:
        return f"demote: failover is off for {name}; chef-backend-ctl set-node-failover on"
    reasons = {other: unfitness(settings, view, other) for other in settings.members if other != name}
    if not all(reasons.values()):
        return ""
    return f"demote: nobody is eligible: {'; '.join(reasons.values())}; try again when cluster-status --wide shows one"


def unfitness(settings: Settings, view: EtcdView, name: str) -> str:
    """Why a member is not eligible, by the rule that the leader asks once more; "" if it is."""
    lsn = view.leader.lsn if view.leader else 0
    habits = settings.leaderl
    report, fatal = view.members.get(name), habits.health_check.search_fatal
    return why_not_eligible(report, name, lsn, habits.max_bytes_behind_leader, fatal)


def _general_refusal(view: EtcdView, asked: str) -> str:
    leader, intent = view.leader, view.intent
    if leader is None:
        return f"{asked}: the cluster has no leader now; see why with cluster-status"
    if view.config and not view.config.failover:
        return f"{asked}: failover is off for the cluster; chef-backend-ctl set-cluster-failover on"
    if leader.state is not LeaderState.LEADING:
        return f"{asked}: {leader.name} is {leader.state} at the moment; try again when it leads"
    if intent and intent.epoch == leader.epoch:
        to = intent.to or "anybody"
        return f"{asked}: a hand-over to {to} is under way already, asked for by {intent.by}; wait for its end"
    if view.restore and view.restore.epoch == leader.epoch:
        return f"{asked}: a restoration is under way, asked for by {view.restore.by}; wait for its end"
    return ""


class _Progress(Steps):
    """Steps as they are seen to happen."""

    def reached(self, step: str) -> None:
        """Note ``step`` and those before it, each once."""
        for passed in STEPS[len(self.rows) : STEPS.index(step) + 1]:
            self.done(passed)

    def has(self, step: str) -> bool:
        """Whether ``step`` was seen to happen."""
        return len(self.rows) > STEPS.index(step)


def _hand_over(settings: Settings, name: str, to: str, timeout: float, on_step: OnStep) -> dict[str, Any]:
    asked = f"promote {to}" if to else "demote"
    client = etcd_client(settings, name, PATIENCE)
    progress, asked_for = _Progress(STEPS, on_step), False
    try:
        view = _look(client)[1]
        refusal = promotion_refusal(settings, view, to) if to else demotion_refusal(settings, view, name)
        if refusal or view.leader is None:
            raise VerbError(refusal)
        asked_for = True
        revision = _ask(client, view, asked, to, name)
        progress.reached(STEPS[0])
        try:
            with progress.rest():
                after = _watch(client, view, asked, to, progress, timeout)
        except VerbError:
            _withdraw(client, revision)
            raise
        return _outcome(view, after, progress)
    except EtcdError as error:
        then = "it may have been asked for all the same: see cluster-status" if asked_for else "nothing was changed"
        raise VerbError(f"{asked}: etcd does not answer with a quorum ({error}); {then}") from error
    except codec.DamagedKey as error:
        raise VerbError(f"{asked}: {error}; nothing was changed") from error
    finally:
        client.close()


def _look(client: EtcdClient) -> tuple[Snapshot, EtcdView]:
    snapshot = client.range()
    return snapshot, codec.view(snapshot, time.monotonic())


def _ask(client: EtcdClient, view: EtcdView, asked: str, to: str, by: str) -> int:
    """Write the request, unless somebody else did in the meantime; its revision."""
    assert view.leader is not None
    old = view.intent
    compare = Compare.mod_revision("intent", old.mod_revision) if old else Compare.absent("intent")
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    request = codec.dump({"to": to, "by": by, "epoch": view.leader.epoch, "at": at})
    alone = Compare.mod_revision("restore", view.restore.mod_revision if view.restore else 0)
    result = client.txn([compare, alone], [Put("intent", request), Delete("intent_result")])
    if result.succeeded:
        return result.revision
    kv = client.get("intent")  # it lost against its own first attempt, or against somebody else's request
    if kv is None or kv.value != request:
        raise VerbError(
            f"{asked}: somebody else asked for a hand-over or a restoration at the same moment; look at "
            "cluster-status, then try again"
        )
    return kv.mod_revision


def _withdraw(client: EtcdClient, revision: int) -> None:
    """Take back our own request; one that is gone, or somebody else's, is left alone."""
    try:
        client.txn([Compare.mod_revision("intent", revision)], [Delete("intent")])
    except EtcdError:
        return  # leaderl drops it at its own deadline


def _watch(client: EtcdClient, before: EtcdView, asked: str, to: str, progress: _Progress, timeout: float) -> EtcdView:
    """Look until there is a new leader that leads; VerbError as soon as there will be none."""
    end, dropped_at, old = progress.began + timeout, 0.0, before.leader
    assert old is not None
    while time.monotonic() < end:
        time.sleep(LOOK)
        try:
            snapshot, view = _look(client)
        except (EtcdError, codec.DamagedKey):
            continue  # the cluster may be busy with exactly this; the deadline ends it
        leader = view.leader
        if leader is None or leader.state is LeaderState.RELEASING:
            progress.reached(STEPS[1])
        elif leader.epoch != old.epoch:
            progress.reached(STEPS[2])
            if leader.state is LeaderState.LEADING:
                return _as_asked(view, leader, old, asked, to, progress)
        else:
            _refused_by_leader(snapshot, view, old.epoch, asked)
            dropped_at = 0.0 if view.intent else dropped_at or time.monotonic()
            if dropped_at and time.monotonic() - dropped_at > SILENCE:
                if progress.has(STEPS[1]):
                    raise VerbError(_given_back(asked, old))
                raise VerbError(
                    f"{asked}: the leader {old.name} dropped the hand-over without a reason and goes on leading; see "
                    "why with chef-backend-ctl tail leaderl there, then try again"
                )
    raise VerbError(
        f"{asked}: no hand-over within {timeout:g} s; {_who_leads(client)}; see why with cluster-status, then try again"
    )


def _given_back(asked: str, old: LeaderKey) -> str:
    return f"{asked}: nobody took over, so {old.name} leads again; see why with cluster-status, then try again"


def _as_asked(view: EtcdView, new: LeaderKey, old: LeaderKey, asked: str, to: str, progress: _Progress) -> EtcdView:
    if new.name == old.name:
        raise VerbError(_given_back(asked, old))
    if to and new.name != to:
        raise VerbError(
            f"{asked}: {new.name} became the leader instead, because {to} dropped out on the way; see why with "
            "cluster-status, then try again"
        )
    progress.reached(STEPS[3])
    return view


def _refused_by_leader(snapshot: Snapshot, view: EtcdView, epoch: int, asked: str) -> None:
    """VerbError if the leader wrote down why it gave the hand-over up."""
    result = codec.told(snapshot.kvs, "intent_result")
    if result.get("epoch") == epoch and result.get("outcome") == "refused" and view.leader:
        why = result.get("reason", "no reason given")
        raise VerbError(f"{asked}: {why}; {view.leader.name} goes on leading: mend that, then try again")


def _who_leads(client: EtcdClient) -> str:
    try:
        leader = _look(client)[1].leader
    except EtcdError as error:
        return f"etcd does not answer ({error})"
    except codec.DamagedKey as error:
        return str(error)
    return f"{leader.name} is {leader.state}" if leader else "there is no leader now"


def _outcome(before: EtcdView, after: EtcdView, progress: _Progress) -> dict[str, Any]:
    old, new = before.leader, after.leader
    return {
        "leader": new.name if new else None,
        "previous": old.name if old else None,
        "epoch": new.epoch if new else None,
        "seconds": progress.rows[-1]["seconds"],
        "steps": progress.rows,
    }
