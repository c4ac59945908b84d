"""PostgreSQL and leaderl killed or hung on the leader. The five points of every story are asserted in story.py."""

from __future__ import annotations

from lab.api import Lab
from tests.lab.story import HICCUP, under_load


def test_f01_postmaster_of_the_leader_killed(lab: Lab) -> None:
    """F01: restarted in place or taken over, whichever is sooner."""
    with under_load(lab) as story:
        story.inject("kill-postgres", story.leader)
        story.await_writes_again()


def test_f01_postmaster_of_a_follower_killed(lab: Lab) -> None:
    """F01: the follower comes back by itself; the leader goes on."""
    with under_load(lab, outage=HICCUP) as story:
        story.inject("kill-postgres", story.followers[0])
        story.stays(4)


def test_f05_postmaster_of_the_leader_hangs(lab: Lab) -> None:
    """F05: a postmaster that takes no connections any more is no leader, whether it is killed or another takes over."""
    with under_load(lab, outage=40) as story:
        story.inject("stop-postgres", story.leader)
        story.await_writes_again(40)


def test_f03_leaderl_of_the_leader_killed(lab: Lab) -> None:
    """F03, F13: systemd starts it again and the node leads on; nobody takes over."""
    with under_load(lab, outage=HICCUP) as story:
        story.inject("kill-leaderl", story.leader)
        story.stays(6)


def test_f03_leaderl_killed_on_all_nodes(lab: Lab) -> None:
    """F03: killed on leader and followers at once, and still no failover."""
    with under_load(lab, outage=HICCUP) as story:
        for node in (story.leader, *story.followers):
            story.inject("kill-leaderl", node)
        story.stays(6)


def test_f12_leaderl_of_the_leader_stays_dead(lab: Lab) -> None:
    """F12: PostgreSQL runs on alone, but the kernel drops the VIP and the others take over."""
    with under_load(lab) as story:
        story.inject("keep-leaderl-dead", story.leader)
        story.await_new_leader()


def test_f06_leaderl_of_the_leader_hangs_past_its_lease(lab: Lab) -> None:
    """F06: as if it were dead; continued after its lease it touches nothing that is not its own any more."""
    with under_load(lab) as story:
        story.inject("stop-leaderl", story.leader)
        story.await_new_leader()
