"""The first leader of a cluster, elected only where nobody and nothing knows one.

initdb needs all three: etcd has no cluster, every member has reported an empty data directory (or the verb bootstrap
asked this node to begin without waiting for the others), and this node has won the claim in etcd. A data directory
without a cluster in etcd is somebody's data: it is reported, never touched.
"""

from __future__ import annotations

from chefha_core.model import EtcdView, Observation, PgState
from chefha_core.plan import durability
from chefha_core.plan.commands import (
    ClaimInitialisation,
    Command,
    InitDb,
    Plan,
    PublishCluster,
    StartPrimary,
    StopPostgres,
)
from chefha_core.plan.facts import look_again
from chefha_core.plan.policy import Policy


def first_leader(seen: Observation, policy: Policy) -> Plan | None:
    """What leads from nothing to a first leader, one step a round."""
    etcd, pg = seen.etcd, seen.pg
    assert etcd is not None
    if etcd.config is not None:
        return None
    if seen.job:
        return look_again(seen, policy, (), "waiting_for_leader", f"busy: {seen.job}")
    if etcd.initialiser != seen.name:
        return look_again(seen, policy, _claim(seen, etcd, policy), "waiting_for_leader", _why_not(seen, etcd, policy))
    step: Command | None = None
    if pg.state is PgState.EMPTY and not _others_data(seen, etcd):
        step = InitDb("this node won the right to create the cluster")
    elif pg.state is PgState.STOPPED:
        step = StartPrimary("the new cluster's first start", (), kill_first=False)
    elif pg.state is PgState.STANDBY:
        step = StopPostgres("the first leader starts as a primary")
    elif pg.state is PgState.PRIMARY and pg.position is not None:
        rule = durability.alone(seen.name) if _by_itself(seen, etcd, policy) else policy.sync_rule
        step = PublishCluster("the first leader is ready", pg.system_id, rule, pg.position.timeline)
    reason = step.reason if step else f"PostgreSQL is {pg.state}"
    return look_again(seen, policy, [step] if step else [], "promoting", reason, seen.now + 0.05)


def _by_itself(seen: Observation, etcd: EtcdView, policy: Policy) -> bool:
    """True if it begins without the others, who will join later: until one has, nobody could acknowledge a commit."""
    return etcd.bootstrap == seen.name and bool(policy.sync_rule.numsync)


def _claim(seen: Observation, etcd: EtcdView, policy: Policy) -> list[Command]:
    if _why_not(seen, etcd, policy) == _READY:
        return [ClaimInitialisation("no member has data and etcd knows no cluster")]
    return []


_READY = "nobody has data: creating the cluster"


def _why_not(seen: Observation, etcd: EtcdView, policy: Policy) -> str:
    """Why this node does not claim the right to initdb now."""
    if seen.pg.state is not PgState.EMPTY:
        return (
            f"etcd knows no cluster, but there is data here (system identifier {seen.pg.system_id or 'unknown'}); "
            "restore etcd, or move the data directory away"
        )
    if creator := etcd.initialiser or (etcd.bootstrap if etcd.bootstrap != seen.name else ""):
        return f"{creator} creates the cluster"
    if etcd.leader is not None or etcd.last_epoch:
        return "etcd has a leader or a history without a configuration: somebody deleted keys; restore etcd"
    missing = sorted(set(policy.members) - set(etcd.members))
    if missing and etcd.bootstrap != seen.name:
        return f"waiting until {', '.join(missing)} reported that there is no data"
    if _others_data(seen, etcd):
        return _others_data(seen, etcd)
    return _READY


def _others_data(seen: Observation, etcd: EtcdView) -> str:
    owners = sorted(n for n, report in etcd.members.items() if n != seen.name and report.pg is not PgState.EMPTY)
    return (
        f"{', '.join(owners)} has data, but etcd knows no cluster; restore etcd, or move that data away"
        if owners
        else ""
    )
