"""Machines that lose their power or freeze. The five points of every story are asserted in story.py."""

from __future__ import annotations

import pytest
from lab.api import Lab
from lab.topology import MASTER
from lab.witness import Witness
from tests.lab.reaction import CONVERGE, await_job, jobs
from tests.lab.story import HICCUP, under_load

#: seconds for three machines to boot at once on two cores and to agree on a leader
BLACKOUT = 60.0


@pytest.mark.everywhere
def test_f14_leader_loses_power_and_salt_reacts(lab: Lab, witness: Witness) -> None:
    """F14: another one takes over, by a reaction that stands in the master's job cache with steps and seconds."""
    before = jobs(lab, CONVERGE)
    with under_load(lab) as story:
        story.inject("kill-host", story.leader)
        story.await_new_leader()
    job = await_job(lab, before, story.new_leader)
    assert job["function"] == CONVERGE
    answer = job["answers"][story.new_leader]
    assert answer["leader"] == story.new_leader
    assert answer["epoch"] > story.epoch
    assert answer["steps"], "the reaction does not tell what it did"
    assert all(step["step"] and step["seconds"] >= 0 for step in answer["steps"])


def test_f14_all_three_lose_power(lab: Lab) -> None:
    """F14: when they are back, in whatever order they boot, one leads again, and everything acknowledged is there."""
    with under_load(lab, outage=BLACKOUT) as story:
        for node in (story.leader, *story.followers):
            story.inject("kill-host", node)


def test_f15_leader_is_frozen_and_wakes_up(lab: Lab) -> None:
    """F15: the frozen machine's kernel drops the VIP; when it wakes up it finds itself deposed and follows."""
    with under_load(lab) as story:
        story.inject("pause-host", story.leader)
        story.await_new_leader()


def test_f61_master_loses_power(lab: Lab) -> None:
    """F61: without a master the cluster goes on as if nothing had happened."""
    with under_load(lab, outage=HICCUP) as story:
        story.inject("kill-master", MASTER.name)
        story.stays(5)


def test_f61_every_master_dead_and_the_leader_loses_power(lab: Lab) -> None:
    """F61: with every master dead the cluster fails over all the same."""
    with under_load(lab) as story:
        story.inject("kill-master", MASTER.name)
        story.inject("kill-host", story.leader)
        story.await_new_leader()
