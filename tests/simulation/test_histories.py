"""Whole-cluster histories under Hypothesis: the real planner of three nodes, a script of up to 12 faults, every
invariant after every step, and at the end one leader with two streaming followers and every acknowledged write.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim.etcd import Snapshot, view
from sim.faults import Fault, scripts
from sim.history import live

from chefha_core import codec

HISTORIES = int(os.environ.get("CHEFHA_HISTORIES", "1000"))
seeds = st.integers(0, 2**16)


def share(part: float) -> settings:
    """This part of all histories."""
    return settings(max_examples=max(1, round(HISTORIES * part)))


@share(0.55)
@given(seeds, scripts)
def test_invariants_hold_in_a_running_cluster(seed: int, script: list[Fault]) -> None:
    live(seed, script)


@share(0.15)
@given(seeds, scripts)
def test_invariants_hold_with_asynchronous_replication(seed: int, script: list[Fault]) -> None:
    live(seed, script, durability="async")


@share(0.15)
@given(seeds, scripts)
def test_invariants_hold_from_the_first_start_on(seed: int, script: list[Fault]) -> None:
    live(seed, script, fresh=True)


@share(0.15)
@given(seeds, scripts, st.sampled_from(("balanced", "patient")))
def test_invariants_hold_in_the_slower_profiles(seed: int, script: list[Fault], profile: str) -> None:
    live(seed, script, profile=profile)


def test_a_history_without_faults_has_one_leader_and_loses_nothing() -> None:
    for seed in range(10):
        world = live(seed, [])
        assert world.leader is not None and world.leader.epoch == 1
        assert world.rejoins == 0


def test_the_simulation_is_deterministic() -> None:
    script = [Fault(1.0, "crash", "leader", 5.0), Fault(2.0, "lossy network", "leader", 5.0)]
    assert live(7, script).story == live(7, script).story


@pytest.mark.parametrize("fresh", [False, True])
def test_the_simulated_view_of_etcd_is_the_real_one(fresh: bool) -> None:
    world = live(3, [Fault(1.0, "crash", "leader", 5.0), Fault(4.0, "nothing")], fresh=fresh)
    snapshot: Snapshot = world.etcd.snapshot()
    assert view(snapshot, 5.0) == codec.view(snapshot, 5.0)
