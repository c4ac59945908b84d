"""Observation in, commands out. Pure: no I/O, no clock, no randomness.

Rules are tried in order and the first that has something to say wins. Each is a function in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from chefha_core.model import Observation
from chefha_core.plan import bootstrap, election, fence, follow, lead, restore
from chefha_core.plan.commands import Plan
from chefha_core.plan.policy import Policy

Rule = Callable[[Observation, Policy], Plan | None]

RULES: tuple[Rule, ...] = (
    fence.without_etcd,  # no quorum of etcd: lead on by failsafe, or stop leading
    fence.removed,  # taken out by remove-node
    restore.former_data,  # the cluster's data was restored, and this is what it was before
    fence.foreign_data,  # a data directory of another cluster is never touched
    bootstrap.first_leader,  # no cluster yet
    fence.not_leader,  # etcd names somebody else: hold nothing that belongs to a leader
    lead.lead,  # etcd names this node
    election.elect,  # nobody leads
    follow.follow,  # somebody leads
)


def plan(seen: Observation, policy: Policy) -> Plan:
    """What this node should do now."""
    for rule in RULES:
        found = rule(seen, policy)
        if found is not None:
            return found
    return Plan((), "waiting_for_leader", "no rule applies", seen.now + policy.times.interval)
