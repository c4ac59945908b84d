"""Restored data in the place of the cluster's, as its leader and the others see it.

The verb prepares everything beside the data directory: verified, recovered, promoted and stopped cleanly, with a
system identifier of its own, so that PostgreSQL itself keeps both kinds of data apart. Then it asks in etcd
(``restore``). The leader stops PostgreSQL and publishes the new system identifier with a new epoch in one transaction.
Before that instant the old data is the cluster's, after it the restored one. What follows is repaired from what
is there: directories are swapped, the leader starts, and whoever has a former system identifier takes a base backup.
"""

from __future__ import annotations

from collections.abc import Iterable

from chefha_core.model import EtcdView, LeaderKey, LeaderState, Observation, PgState, Restoration
from chefha_core.plan.commands import (
    ClearRestore,
    Clone,
    Command,
    EndClientSessions,
    KillPostgres,
    Plan,
    PublishRestore,
    ReleaseKey,
    StopPostgres,
    SwapIn,
    WithdrawCandidacy,
)
from chefha_core.plan.facts import look_again, names_me
from chefha_core.plan.fence import stop_leading
from chefha_core.plan.follow import if_leading
from chefha_core.plan.policy import Policy

Step = tuple[list[Command], str]
#: seconds for which a follower must have been one before the data is deleted that its clone replaced
PROVEN = 60.0
_GONE = (PgState.STOPPED, PgState.EMPTY)


def step(seen: Observation, policy: Policy, key: LeaderKey) -> Step | None:
    """What the leader does next for a restoration, whatever its PostgreSQL does now; None if there is none."""
    assert seen.etcd is not None
    if waits(seen):
        return _swap(seen)
    request = seen.etcd.restore
    if request is None:
        return None
    why = why_not(seen, policy, key, request)
    if why:
        return [ClearRestore(why)], f"keeps leading: not restored, {why}"
    reason = f"restoring {request.source or 'an archive'}, asked for by {request.by}"
    if seen.pg.state not in _GONE:
        return _stop(seen, policy, reason)
    if seen.job:
        return [], f"{reason}: busy: {seen.job}"
    publish = PublishRestore(reason, seen.etcd.leader_revision, key.epoch + 1, request, policy.sync_rule)
    return [publish], reason


def waits(seen: Observation) -> bool:
    """True if etcd says that the restored data beside the data directory is the cluster's, and it is not in place.

    While it is being put there it may be neither beside the data directory any more nor seen in its place yet.
    """
    if seen.job == SwapIn.__name__:
        return True
    config = seen.etcd.config if seen.etcd else None
    return config is not None and bool(seen.staged) and seen.staged == config.system_id != seen.pg.system_id


def revives(seen: Observation, policy: Policy) -> bool:
    """True if nobody has any data, and somebody asked for a restoration: whose key it was last may carry it out."""
    etcd = seen.etcd
    return etcd is not None and etcd.restore is not None and not why_data(etcd, policy.members)


def why_data(etcd: EtcdView, members: Iterable[str]) -> str:
    """Who has data, or does not say that it has none; "" if every member says so."""
    reports = {name: etcd.members.get(name) for name in members}
    owners = sorted(name for name, report in reports.items() if report is None or report.pg is not PgState.EMPTY)
    return f"{', '.join(owners)} may have data" if owners else ""


def why_not(seen: Observation, policy: Policy, key: LeaderKey, request: Restoration) -> str:
    """Why the leader does not restore what was asked for; "" if it does."""
    etcd = seen.etcd
    assert etcd is not None
    if request.epoch != key.epoch:
        return f"it was asked of the leader of epoch {request.epoch}, and this is epoch {key.epoch}"
    if key.state is not LeaderState.LEADING and not revives(seen, policy):
        return f"{key.name} is {key.state}"
    if etcd.config is None:
        return "etcd has no configuration of this cluster"
    if seen.staged != request.system_id:
        return f"the restored data is not beside the data directory of {seen.name}"
    newest = max(etcd.timelines, default=0)
    if request.timeline <= newest:
        return f"timeline {request.timeline} is not above {newest}, which a leader was given meanwhile"
    return ""


def former_data(seen: Observation, policy: Policy) -> Plan | None:
    """Data from before a restoration never leads, and gives way to a base backup of who leads the restored data."""
    etcd = seen.etcd
    assert etcd is not None
    config = etcd.config
    if config is None or seen.pg.system_id not in config.former or (names_me(seen) and waits(seen)):
        return None
    why = f"the data here is from before the cluster was restored (system identifier {seen.pg.system_id})"
    if stop := stop_leading(seen, why):
        return look_again(seen, policy, stop, "deposed_leader", why, seen.now)
    if seen.name in etcd.candidates:
        return look_again(seen, policy, [WithdrawCandidacy(why)], "waiting_for_leader", why, seen.now)
    if names_me(seen):
        return _give_up(seen, policy, why)
    command, reason = _reclone(seen, policy, why)
    return look_again(seen, policy, [command] if command else [], "waiting_for_leader", reason, seen.now + 0.5)


def why_old_data_goes(seen: Observation, policy: Policy) -> str:
    """Why the data that a clone or a restoration replaced here is not needed any more; "" as long as it may be.

    On a follower that streams long enough; on the leader once every other member follows the same data as it.
    """
    if seen.pg.streaming and seen.pg.since > PROVEN:
        return f"this follower streams for {seen.pg.since:.0f} s"
    etcd = seen.etcd
    if etcd is None or not names_me(seen) or seen.pg.state is not PgState.PRIMARY or not seen.address:
        return ""
    others = [etcd.members.get(name) for name in policy.members if name != seen.name]
    follow = all(report and report.streaming and report.system_id == seen.pg.system_id for report in others)
    return "every other member follows this data" if follow else ""


def _give_up(seen: Observation, policy: Policy, why: str) -> Plan:
    """Elected, and without the cluster's data: whoever has it may lead."""
    assert seen.etcd is not None and seen.etcd.leader is not None
    key = seen.etcd.leader
    if key.state is LeaderState.RELEASING:
        return look_again(seen, policy, (), "blocked", f"{why}, and nobody who has the restored data leads")
    release = ReleaseKey(
        why, seen.etcd.leader_revision, key.epoch, key.timeline, key.lsn, to="", clean=False, fit=False
    )
    return look_again(seen, policy, [release], "blocked", why)


def _reclone(seen: Observation, policy: Policy, why: str) -> tuple[Command | None, str]:
    assert seen.etcd is not None
    leader = seen.etcd.leader
    upstream = policy.members.get(leader.name, "") if leader else ""
    if leader is None or not upstream:
        return None, f"{why}; waiting until somebody leads who has the restored data"
    if seen.job:
        return None, f"busy: {seen.job}"
    if seen.now < seen.retry_at:
        return None, f"{why}; the base backup failed: {seen.pg.problem}; again in {seen.retry_at - seen.now:.0f} s"
    return if_leading(seen, Clone(why, upstream))


def _stop(seen: Observation, policy: Policy, reason: str) -> Step:
    """Nothing is acknowledged any more. The old data need not be clean: it is only kept in case."""
    assert seen.etcd is not None
    commands: list[Command] = []
    late = seen.now > seen.etcd.restore_seen_at + policy.times.handover_timeout
    if late or seen.pg.state is PgState.HUNG:
        return [KillPostgres(reason)], f"{reason}: PostgreSQL does not stop, ending it"
    if not seen.job:
        commands = [EndClientSessions(reason), StopPostgres(reason)]
    return commands, f"{reason}: stopping the old data"


def _swap(seen: Observation) -> Step:
    why = "etcd says that the restored data is the cluster's"
    if seen.pg.state not in _GONE:
        return [KillPostgres(why)], f"{why}: ending PostgreSQL on the former data"
    if seen.job:
        return [], f"busy: {seen.job}"
    return [SwapIn(why, seen.staged)], f"{why}: putting it in place"
