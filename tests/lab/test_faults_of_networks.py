"""The leader cut from the others, in part or wholly. The five points of every story are asserted in story.py."""

from __future__ import annotations

from lab.api import Lab
from tests.lab.story import HICCUP, under_load


def test_f23_leader_cut_from_everything(lab: Lab) -> None:
    """F23: the others take over; the old leader drops the VIP although nobody can tell it to."""
    with under_load(lab) as story:
        story.inject("isolate", story.leader)
        story.await_new_leader()


def test_f23_follower_cut_from_everything(lab: Lab) -> None:
    """F23: writes go on with the other follower."""
    with under_load(lab, outage=HICCUP) as story:
        story.inject("isolate", story.followers[1])
        story.stays(5)


def test_f22_leader_cut_from_the_other_back_ends_but_not_from_clients(lab: Lab) -> None:
    """F22, F24: clients still reach the old leader; it must acknowledge nothing and give up the VIP in time."""
    with under_load(lab) as story:
        story.inject("cut-peers", story.leader)
        story.await_new_leader()


def test_f21_leader_cut_from_etcd_only(lab: Lab) -> None:
    """F21: replication and clients go on, only etcd is out of reach: the followers see it and one takes over."""
    with under_load(lab) as story:
        story.inject("cut-etcd", story.leader)
        story.await_new_leader()
