"""A back end is lost; highstate alone makes an empty machine of the same name a member in its place."""

from __future__ import annotations

import pytest
from lab.api import Lab
from lab.witness import Witness, others
from tests.lab.bring_up import APPLY_TIMEOUT, did_change, failed
from tests.lab.story import under_load

JOINED = 180.0


@pytest.mark.everywhere
@pytest.mark.parametrize("role", ["follower", "leader"])
def test_an_empty_machine_takes_the_place_of_a_lost_one(lab: Lab, witness: Witness, role: str) -> None:
    """F55: first a follower, then the leader: under load, nothing lost, no other machine is touched."""
    with under_load(lab) as story:
        victim = story.leader if role == "leader" else story.followers[0]
        lab.replace(victim)
        if role == "leader":
            story.await_new_leader()
        answer = lab.salt(victim, "state.apply", timeout=APPLY_TIMEOUT)[victim]
        assert not failed(answer)
        witness.await_converged(JOINED)
    members = lab.salt(others(victim)[0], "chefha.cluster_status")[others(victim)[0]]["members"]
    guids = [row["guid"] for row in members]
    assert len(set(guids)) == 3 and "-" not in guids, members
    again = lab.salt("*", "state.apply", timeout=APPLY_TIMEOUT)
    for minion, said in again.items():
        assert not failed(said) and not did_change(said), f"{minion}: {did_change(said)}"
