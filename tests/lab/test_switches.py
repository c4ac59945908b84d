"""Failover switched off, for the cluster and for one node: nobody takes over, and what stands in the way is said."""

from __future__ import annotations

import time

from lab.api import Lab
from lab.topology import BACKENDS
from lab.witness import Witness, others
from tests.lab.story import poll, under_load

ASKED_ON = BACKENDS[0].name
#: seconds of writes that only the follower has which must not lead
AHEAD = 2.0


def test_a_cluster_whose_failover_is_off_elects_nobody(lab: Lab, witness: Witness) -> None:
    """The leader's host is lost and nobody takes over; hand-over is refused; switched on again, another one leads."""
    with under_load(lab, outage=60) as story:
        asked_on = story.followers[0]
        assert lab.salt(asked_on, "chefha.set_cluster_failover", "off")[asked_on]["changed"] is True
        try:
            refusal = lab.salt(asked_on, "chefha.promote", asked_on, timeout=45)[asked_on]
            assert "failover is off for the cluster" in refusal
            story.inject("kill-host", story.leader)
            story.stays(8)
        finally:
            lab.salt(asked_on, "chefha.set_cluster_failover", "enabled")
        story.await_new_leader()


def test_a_node_whose_failover_is_off_is_never_elected(lab: Lab, witness: Witness) -> None:
    """The other follower takes over, although only the one that must not lead has what was acknowledged last; a word
    that is none is refused."""
    with under_load(lab) as story:
        barred, other = others(story.leader)
        assert lab.salt(barred, "chefha.set_node_failover", "off")[barred]["changed"] is True
        assert lab.salt(barred, "chefha.set_node_failover", "off")[barred]["changed"] is False
        try:
            known = poll(lambda: "switched off" in str(lab.salt(other, "chefha.promote", barred)[other]), 15)
            assert known, "promote does not refuse the node"
            story.inject("cut-peers", other)
            time.sleep(AHEAD)
            story.inject("kill-host", story.leader)
            lab.heal(other)
            assert story.await_new_leader() == other
        finally:
            lab.salt(barred, "chefha.set_node_failover", "true")
    said = lab.salt(ASKED_ON, "chefha.set_node_failover", "perhaps")[ASKED_ON]
    assert "expected one of on, true" in said
