"""cluster_status when something is away: it answers in time, and says in words what it could not ask."""

from __future__ import annotations

import time
from typing import Any

import pytest
from lab.api import Lab
from lab.stack import CLUSTER
from lab.topology import BACKENDS
from lab.witness import Witness
from tests.lab.shell import WELL, in_shell
from tests.lab.story import HICCUP, under_load

ASKED_ON = BACKENDS[0].name
#: seconds from the command on the master to its answer: the verb's own deadline is 1 s, Salt and two cores take theirs
DEADLINE = 8.0
#: the same of the shell, which takes half a second at most where nothing else runs
MOMENT = 1.5
ROWS_KNOWN_AFTER = 15.0


def cluster_status(lab: Lab) -> dict[str, Any]:
    """What `salt be1 chefha.cluster_status` answers, in time."""
    began = time.monotonic()
    answer = lab.salt(ASKED_ON, "chefha.cluster_status", timeout=30)[ASKED_ON]
    took = time.monotonic() - began
    assert isinstance(answer, dict), answer
    assert took < DEADLINE, f"{took:.1f} s"
    return answer


def rows(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The table's rows by member."""
    return {row["name"]: row for row in answer["members"]}


def test_status_of_a_whole_cluster(lab: Lab, witness: Witness) -> None:
    """It says what the machines say: the leader, the VIP's holder, who follows; nothing is a problem."""
    witness.await_converged(45)
    leader = witness.leader()
    answer = cluster_status(lab)
    assert answer["leader"] == leader
    assert answer["vip"]["holder"] == leader
    assert answer["problems"] == {}
    assert {name: row["pg"] for name, row in rows(answer).items()} == {
        node.name: "leader" if node.name == leader else "follower" for node in BACKENDS
    }


def test_status_of_a_nodes_services(lab: Lab) -> None:
    """What systemd says of each service, what the cluster says of it, and the disks."""
    answer = lab.salt(ASKED_ON, "chefha.status", timeout=30)[ASKED_ON]
    services = {"postgresql", "etcd", "leaderl", "salt-minion", lab.stack.search} - {"none"}
    assert {name: row["state"] for name, row in answer["services"].items()} == dict.fromkeys(services, "running")
    assert "3/3" in answer["services"]["etcd"]["distributed"]
    assert answer["disks"]
    code, text = lab.exec(ASKED_ON, ["chef-backend-ctl", "status", "--simple"])
    assert code == 0 and "run: postgresql: (pid" in text


@pytest.mark.parametrize("verb", ["cluster-status", "status"])
def test_the_shell_answers_in_a_moment(lab: Lab, witness: Witness, verb: str) -> None:
    """On a cluster that is well; what it takes exactly is bench.shell's business."""
    witness.await_converged(45)
    answers = [in_shell(lab, ASKED_ON, verb) for _ in range(5)]
    assert [said for said, _ in answers] == [WELL] * 5
    assert min(took for _, took in answers) <= MOMENT, answers


def test_f14_follower_loses_power_and_status_says_so(lab: Lab, witness: Witness) -> None:
    """F14: writes go on with the other follower, nobody takes over, and the dead one does not hold the answer up."""
    with under_load(lab, outage=HICCUP) as story:
        victim = next(name for name in story.followers if name != ASKED_ON)
        story.inject("kill-host", victim)
        answer = cluster_status(lab)
        assert victim in answer["problems"]
        assert answer["leader"] == story.leader
        merged = lab.salt_run("chefha.cluster_status", CLUSTER)
        assert merged["unanswered"] == {victim: "its minion does not answer"}
        assert merged["leader"] == merged["vip"]["holder"] == story.leader

        def known() -> list[str]:
            row = rows(cluster_status(lab))[victim]
            return [] if row["pg"] == "offline" else [f"{victim} is said to be {row['pg']}"]

        witness.await_true(known, ROWS_KNOWN_AFTER, "cluster_status did not learn of it")
        story.stays(1)


def test_f33_status_without_etcd(lab: Lab, witness: Witness) -> None:
    """F21, F33: asked on a node that reaches no etcd with a quorum, it says so in a sentence and shows the rest."""
    with under_load(lab) as story:
        story.inject("cut-etcd", ASKED_ON)
        answer: dict[str, Any] = {}

        def said() -> list[str]:
            answer.update(cluster_status(lab))
            return [] if "etcd" in answer["problems"] else ["no word about etcd"]

        witness.await_true(said, 20, "cluster_status did not notice")
        sentence = answer["problems"]["etcd"]
        assert "Traceback" not in sentence and "\n" not in sentence
        assert len(sentence.split()) >= 3, sentence
        assert set(rows(answer)) == {node.name for node in BACKENDS}
        refusal = lab.salt(ASKED_ON, "chefha.promote", BACKENDS[1].name, timeout=45)[ASKED_ON]
        assert isinstance(refusal, str) and "Traceback" not in refusal
        assert "etcd does not answer with a quorum" in refusal and "nothing was changed" in refusal
