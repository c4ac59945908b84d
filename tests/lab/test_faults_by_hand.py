"""What people and late messages do to a cluster behind its back. The five points are asserted in story.py."""

from __future__ import annotations

import json

import pytest
from lab.api import Lab
from lab.topology import BACKENDS, BY_NAME, MASTER
from lab.witness import Witness
from tests.lab.postgresql import sql
from tests.lab.reaction import CONVERGE, await_job, jobs
from tests.lab.story import HICCUP, under_load

MEMBERS = [node.name for node in BACKENDS]
#: what docs/etcd.md tells people to type: the password is on no command line
AS_ROOT = (
    "export ETCDCTL_API=3 ETCDCTL_USER=root ETCDCTL_PASSWORD=$(python3 -c 'import json; "
    'print(json.load(open("/etc/chefha/settings.json"))["secrets"]["etcd_root_password"])\')'
)
TAG = f"salt/beacon/{MEMBERS[0]}/chefha_leader/leader_change"


@pytest.mark.parametrize(
    ("command", "answer"), [("del /chefha/lab/leader", "1"), ("put /chefha/lab/leader mine", "OK")]
)
def test_f38_leader_key_deleted_or_overwritten_by_hand(lab: Lab, command: str, answer: str) -> None:
    """F38: its holder, who still leads, writes it again; nobody takes over."""
    with under_load(lab, outage=HICCUP) as story:
        tls = "--cacert /etc/chefha/tls/ca.crt --cert /etc/chefha/tls/server.crt --key /etc/chefha/tls/server.key"
        endpoint = f"https://{BY_NAME[story.leader].address}:2379"
        code, said = lab.exec(story.leader, f"{AS_ROOT}; etcdctl --endpoints {endpoint} {tls} {command}")
        assert (code, said.strip()) == (0, answer), said
        story.stays(6)


def test_f41_follower_promoted_by_hand(lab: Lab) -> None:
    """F41: a primary that etcd does not name is stopped, and comes back as a follower."""
    with under_load(lab, outage=HICCUP) as story:
        assert sql(lab, story.followers[0], "SELECT pg_promote(wait => false)") == "t"
        story.stays(6)


def test_f63_late_event_changes_nothing(lab: Lab, witness: Witness) -> None:
    """F63: the event of an epoch long over makes the members look at etcd, and that is all."""
    leader = witness.leader()
    epoch = max(row.epoch for row in witness.look())
    other = next(name for name in MEMBERS if name != leader)
    before = jobs(lab, CONVERGE)
    event = json.dumps({"members": MEMBERS, "leader": other, "epoch": 1, "cluster": "lab"})
    code, said = lab.exec(MASTER.name, ["salt-run", "event.send", TAG, event], 30)
    assert code == 0, said
    job = await_job(lab, before, leader)
    assert job["answers"][leader]["leader"] == leader
    assert witness.leader() == leader
    assert max(row.epoch for row in witness.look()) == epoch
