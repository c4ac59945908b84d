"""The simulator can fail: each guard that keeps the cluster safe is switched off, and a violation is found.

Every history here passes with the guard (``test_with_the_guard``), so it is the guard that makes the difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from sim.faults import Fault
from sim.history import live
from sim.world import Guards, Violation

from chefha_core.model import LeaderState, Observation, PgState, SyncRule
from chefha_core.plan import commands as c
from chefha_core.plan import plan
from chefha_core.plan.policy import Policy

SEEDS = range(60)
L, F, S = "leader", "first", "second"


class OneAsserts(Policy):
    """An election in which a single node decides although commits wait for only one of two others."""

    @property
    def sync_rule(self) -> SyncRule:
        return SyncRule(tuple(sorted(self.members)), numsync=1, quorum=1)


def one_asserts(policy: Policy) -> Policy:
    return OneAsserts(**{field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)})


def changed(plan_: c.Plan, **changes: Any) -> c.Plan:
    return dataclasses.replace(plan_, **changes)


def next_timeline_of_its_own(seen: Observation, policy: Policy) -> c.Plan:
    """As pg_promote chooses it: the one after the last that this node knows."""
    found = plan(seen, policy)
    own = seen.pg.position.timeline + 1 if seen.pg.position else 0
    swap = [dataclasses.replace(x, timeline=own) if isinstance(x, c.TakeKey) else x for x in found.commands]
    return changed(found, commands=tuple(swap))


def connects_before_it_withdraws(seen: Observation, policy: Policy) -> c.Plan:
    """Blind to its own candidacy while somebody else leads."""
    etcd = seen.etcd
    if etcd and etcd.leader and etcd.leader.name != seen.name and etcd.leader.state is not LeaderState.RELEASING:
        others = {name: x for name, x in etcd.candidates.items() if name != seen.name}
        seen = dataclasses.replace(seen, etcd=dataclasses.replace(etcd, candidates=others))
    return plan(seen, policy)


def trusts_every_timeline(seen: Observation, policy: Policy) -> c.Plan:
    """Does not know which timelines were given to leaders."""
    if seen.etcd:
        seen = dataclasses.replace(seen, etcd=dataclasses.replace(seen.etcd, timelines=frozenset()))
    return plan(seen, policy)


def knows_no_former_data(seen: Observation, policy: Policy) -> c.Plan:
    """Takes whatever data is here for the cluster's."""
    etcd = seen.etcd
    if etcd and etcd.config and seen.pg.system_id in etcd.config.former and not seen.staged:
        config = dataclasses.replace(etcd.config, system_id=seen.pg.system_id, former=())
        seen = dataclasses.replace(seen, etcd=dataclasses.replace(etcd, config=config))
    return plan(seen, policy)


def address_before_durability(seen: Observation, policy: Policy) -> c.Plan:
    """Takes the VIP as soon as PostgreSQL is writable, whoever it waits for."""
    found = plan(seen, policy)
    if seen.pg.state is PgState.PRIMARY and seen.lease and not seen.address and found.role == "leader":
        hold = c.HoldAddress("early", policy.times.address, take=True, check=False)
        return changed(found, commands=(*(x for x in found.commands if not isinstance(x, c.HoldAddress)), hold))
    return found


WITHOUT: dict[str, tuple[Mapping[str, Any], list[Fault], str]] = {
    "receiver_cut_before_the_candidacy": (
        {"guards": Guards(receiver_cut=False)},
        [Fault(1, "cut off", L, 8.0, "etcd http"), Fault(9, "nothing")],
        "its WAL receiver streams|which the leader|without the acknowledged",
    ),
    "comparison_in_the_take_over": (
        {"guards": Guards(take_compares=False)},
        [
            Fault(1, "trap", F, 5.0, "stop leaderl/TakeKey/before"),
            Fault(0, "cut off", L, 4.0, "etcd http"),
            Fault(9, "nothing"),
        ],
        "VIP|primary|acknowledged",
    ),
    "comparison_in_the_renewal": (
        {"guards": Guards(renew_compares=False, history_compares=False)},
        [Fault(1, "trap", L, 5.0, "stop leaderl/Renew/before"), Fault(9, "nothing")],
        "hold the VIP at once|takes the VIP although",
    ),
    "comparison_of_the_epoch_when_a_deleted_key_is_renewed": (
        {"guards": Guards(history_compares=False)},
        [
            Fault(1, "leader key deleted"),
            Fault(0, "trap", "a", 5.9, "stop leaderl/Renew/before"),
            Fault(5, "stop leaderl of", "b", 3.5),
            Fault(0, "stop leaderl of", "c", 3.5),
            Fault(0.6, "leader key deleted"),
            Fault(9, "nothing"),
        ],
        "hold the VIP at once|takes the VIP although",
    ),
    "comparison_in_the_candidacy": (
        {"guards": Guards(post_compares=False)},
        [Fault(1, "lossy network", L, 15.0), Fault(0.1, "trap", L, 3.5, "pause/Renew/before"), Fault(9, "nothing")],
        "its WAL receiver streams",
    ),
    "address_lifetime": (
        {"guards": Guards(address_lifetime=False)},
        [Fault(1, "stop leaderl of", L, 8.0), Fault(9, "nothing")],
        "hold the VIP at once|holds the VIP without",
    ),
    "look_at_the_clock_that_counts_while_the_machine_is_suspended": (
        {"guards": Guards(suspend_noticed=False)},
        [Fault(1, "suspend", L, 4.5), Fault(9, "nothing")],
        "hold the VIP at once|holds the VIP without|takes the VIP although",
    ),
    "failsafe_promise": (
        {"guards": Guards(promise=False)},
        [Fault(1, "stop etcd of", L, 5.0, "all"), Fault(4.8, "cut off", L, 8.0, "etcd http"), Fault(9, "nothing")],
        "hold the VIP at once|holds the VIP without",
    ),
    "epoch_check_before_the_promotion": (
        {"guards": Guards(lease_before_promotion=False)},
        [Fault(1, "crash", L, 3.5), Fault(0, "trap", F, 8.0, "stop leaderl/Promote/before"), Fault(15, "nothing")],
        "makes itself a primary although",
    ),
    "two_assertions": (
        {"change_policy": one_asserts},
        [
            Fault(1, "cut off", S, 15.0, "pg"),
            Fault(2, "kill leaderl of", F, 15.0),
            Fault(0, "kill leaderl of", L, 15.0),
            Fault(14, "nothing"),
        ],
        "without the acknowledged",
    ),
    "timelines_of_their_own": (
        {"planner": next_timeline_of_its_own},
        [Fault(1, "crash", L, 8.0), Fault(0, "trap", F, 15.0, "crash/Promote/after"), Fault(17, "nothing")],
        "which was|shared a timeline",
    ),
    "withdrawal_before_the_receiver_connects": (
        {"planner": connects_before_it_withdraws},
        [Fault(1, "crash", L, 8.0), Fault(9, "nothing")],
        "its WAL receiver streams",
    ),
    "knowledge_of_the_leaders_timelines": (
        {"planner": trusts_every_timeline},
        [
            Fault(1, "kill leaderl of", F, 3.5),
            Fault(0.1, "pg_promote by hand on", F),
            Fault(3, "crash", L, 8.0),
            Fault(9, "nothing"),
        ],
        "without the acknowledged",
    ),
    "comparison_in_the_publication_of_restored_data": (
        {"guards": Guards(publish_compares=False)},
        [
            Fault(3, "trap", L, 5.0, "stop leaderl/PublishRestore/before"),
            Fault(0, "restore on", L),
            Fault(15, "nothing"),
        ],
        "VIP|primary|acknowledged|data",
    ),
    "knowledge_of_former_data": (
        {"planner": knows_no_former_data},
        [
            Fault(3, "trap", L, 15.0, "crash/SwapIn/before"),
            Fault(0, "restore on", L),
            Fault(20, "nothing"),
        ],
        "is the cluster's",
    ),
    "durability_before_the_address": (
        {"planner": address_before_durability, "fresh": True},
        [Fault(9, "nothing")],
        "which no other node has flushed",
    ),
}


@pytest.mark.parametrize("guard", WITHOUT)
def test_without_guard_the_simulator_finds_a_violation(guard: str) -> None:
    kinds, script, expected = WITHOUT[guard]
    for seed in SEEDS:
        try:
            live(seed, script, **kinds)
        except Violation as violation:
            first = str(violation).splitlines()[0]
            if any(words in first for words in expected.split("|")):
                return
    pytest.fail(f"without {guard} nothing went wrong in {len(SEEDS)} histories")


@pytest.mark.parametrize("guard", WITHOUT)
def test_with_the_guard(guard: str) -> None:
    kinds, script, _ = WITHOUT[guard]
    for seed in range(10):
        live(seed, script, fresh=bool(kinds.get("fresh")))
