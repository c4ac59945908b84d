"""Verbs that are refused on a cluster that is well: each in a sentence of its own, and nothing has changed.

Other refusals are where the verb is at home (test_handover, test_members, test_node_care, test_restore, …), or come of
trouble (test_verbs_in_trouble).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab.api import Lab
from lab.witness import Witness, others
from tests.lab.shell import in_shell
from tests.lab.story import poll

ARCHIVES = "/var/opt/chef-backup"


@pytest.fixture(name="roles")
def _roles(lab: Lab, witness: Witness) -> Iterator[tuple[str, str, str]]:
    """The leader and its followers; whoever leads in which epoch is the same afterwards."""
    witness.await_converged(60)
    leader = witness.leader()
    before = {(row.name, row.epoch, row.role) for row in witness.look()}
    yield leader, *others(leader)
    assert {(row.name, row.epoch, row.role) for row in witness.look()} == before


def assert_refused(lab: Lab, node: str, words: str, *expected: str) -> None:
    """In the shell: one sentence that has all that is expected."""
    said, _ = in_shell(lab, node, words)
    assert said and all(part in said for part in expected), f"{words}: {said or 'it succeeded'}"


@contextmanager
def switched(lab: Lab, nodes: tuple[str, ...], switch: str) -> Iterator[None]:
    """A switch is off meanwhile."""
    for node in nodes:
        assert lab.exec(node, f"chef-backend-ctl {switch} off")[0] == 0
    try:
        yield
    finally:
        for node in nodes:
            lab.exec(node, f"chef-backend-ctl {switch} on")


def test_what_is_asked_wrongly_or_of_the_wrong_node(lab: Lab, roles: tuple[str, str, str]) -> None:
    """As the words or the roles of the nodes stand in the way."""
    leader, follower, _ = roles
    for node, words, expected in (
        (leader, "backup", "this node leads"),
        (leader, "bootstrap -y", "etcd knows this cluster already"),
        (leader, "bootstrap --quorum-loss-recovery -y", "etcd has a quorum"),
        (follower, "demote", f"{leader} is; run it there"),
        (follower, "force-leader -y", f"{leader} is the leader"),
        (follower, "gen-server-config", "which front end?"),
        (follower, "gen-server-config Chef.example.com", "not in lower case"),
        (follower, "gen-server-config chef_1.example.com", "not a host name"),
        (follower, f"promote {leader}", "is the leader already"),
        (follower, "set-cluster-failover perhaps", "expected one of on"),
        (follower, "set-node-failover perhaps", "expected one of on"),
        (follower, "cleanse -y", "still a member of the cluster"),
        (leader, "upgrade", "upgrade the followers first"),
        (follower, "start nothing", "no such service"),
    ):
        assert_refused(lab, node, words, expected)


def test_a_hand_over_is_refused_while_failover_is_off(lab: Lab, roles: tuple[str, str, str]) -> None:
    """For the cluster, or for everybody who could take over."""
    leader, *followers = roles
    with switched(lab, (leader,), "set-cluster-failover"):
        assert_refused(lab, leader, "demote", "failover is off for the cluster")
        assert_refused(lab, leader, f"promote {followers[0]}", "failover is off for the cluster")
    with switched(lab, (leader,), "set-node-failover"):
        assert_refused(lab, leader, "demote", f"failover is off for {leader}")
    with switched(lab, tuple(followers), "set-node-failover"):

        def nobody() -> bool:
            return "nobody is eligible" in lab.exec(leader, "chef-backend-ctl demote --timeout 1 2>&1")[1]

        assert poll(nobody, 15), "demote does not refuse"
        assert_refused(lab, leader, "demote", "nobody is eligible", *(f"{name}" for name in followers))


def test_a_backup_without_room_is_refused(lab: Lab, roles: tuple[str, str, str]) -> None:
    """Before anything is written."""
    follower = roles[1]
    assert lab.exec(follower, f"mkdir -p {ARCHIVES} && mount -t tmpfs -o size=1m small {ARCHIVES}")[0] == 0
    try:
        assert_refused(lab, follower, "backup", "not enough room", "chefha:backup:directory")
        assert lab.exec(follower, f"ls -A {ARCHIVES}")[1] == ""
    finally:
        lab.exec(follower, f"umount {ARCHIVES}")
