"""The runner's verbs on the real master: each is done by the member that it is for, and the answer says which that was.

Others are where their situation is: cluster_status and upgrade in test_rolling_upgrade, remove_node in test_node_care,
force_leader in test_members, restore in test_restore.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab.api import Lab
from lab.stack import CLUSTER
from lab.topology import BACKENDS
from lab.witness import Witness, others

CONVERGED = 60.0
#: seconds for a verb, Salt's own time and the two cores that all machines share included
VERB = 120.0
NAMES = {node.name for node in BACKENDS}


def run(lab: Lab, verb: str, *words: str, cluster: str = CLUSTER) -> dict[str, Any]:
    """What `salt-run chefha.VERB CLUSTER …` answers; if it is refused, that is one sentence."""
    answer = lab.salt_run(f"chefha.{verb}", cluster, *words, timeout=VERB)
    assert "Traceback" not in str(answer) and "\n" not in str(answer.get("error", "")), f"{verb}: {answer}"
    return answer


def done(lab: Lab, verb: str, *words: str) -> dict[str, Any]:
    """The same of a verb that must succeed."""
    answer = run(lab, verb, *words)
    assert "error" not in answer, f"{verb}: {answer}"
    return answer


@contextmanager
def nothing_changes(witness: Witness) -> Iterator[str]:
    """The leader; whoever leads in which epoch is the same when the block ends."""

    def seen() -> set[tuple[str, int, str]]:
        return {(row.name, row.epoch, row.role) for row in witness.look()}

    witness.await_converged(CONVERGED)
    before = seen()
    yield witness.leader()
    assert seen() == before


def test_promote_and_demote_are_asked_of_the_leader(lab: Lab, witness: Witness) -> None:
    """Whoever that is at the moment; what it is refused for comes through in its words."""
    witness.await_converged(CONVERGED)
    old = witness.leader()
    new = others(old)[0]
    answer = done(lab, "promote", new)
    assert (answer["leader"], answer["previous"], answer["asked_on"]) == (new, old, old), answer
    assert witness.leader() == new
    assert f"{new} is the leader already" in run(lab, "promote", new)["error"]
    assert "no such member" in run(lab, "promote", "be9")["error"]
    witness.await_converged(CONVERGED)
    answer = done(lab, "demote")
    assert answer["previous"] == answer["asked_on"] == new and answer["leader"] in others(new), answer
    assert witness.leader() == answer["leader"]
    witness.await_converged(CONVERGED)


def test_failover_is_switched_for_the_whole_cluster(lab: Lab, witness: Witness) -> None:
    """Off, a hand-over is refused; on again, everything is as it was."""
    with nothing_changes(witness) as leader:
        try:
            answer = done(lab, "set_cluster_failover", "off")
            assert (answer["failover"], answer["changed"], answer["asked_on"]) == (False, True, leader), answer
            assert "failover is off for the cluster" in run(lab, "demote")["error"]
            assert "expected one of on" in run(lab, "set_cluster_failover", "perhaps")["error"]
        finally:
            answer = done(lab, "set_cluster_failover", "on")
        assert (answer["failover"], answer["changed"]) == (True, True), answer


def test_what_every_member_is_asked_for_is_one_answer(lab: Lab, witness: Witness) -> None:
    """converge, status, version and the logs, each member's own."""
    with nothing_changes(witness) as leader:
        roles = {name: row["role"] for name, row in done(lab, "converge").items()}
        assert roles == {name: "leader" if name == leader else "follower" for name in NAMES}
        services = {name: row["services"]["postgresql"]["state"] for name, row in done(lab, "status").items()}
        assert services == dict.fromkeys(NAMES, "running")
        libraries = {name: row["library"] for name, row in done(lab, "version").items()}
        assert set(libraries) == NAMES and len(set(libraries.values())) == 1, libraries
        for name, row in done(lab, "gather_logs").items():
            code, text = lab.exec(name, f"tar tzf {row['path']} | grep -c cluster-status.json; rm {row['path']}")
            assert (code, text.strip()) == (0, "1"), text


def test_a_backup_is_taken_on_a_follower(lab: Lab, witness: Witness) -> None:
    """On one that is well, where the archive then is; what it is given as an option reaches it."""
    with nothing_changes(witness) as leader:
        answer = done(lab, "backup", "compression=gzip")
        assert answer["asked_on"] in others(leader) and answer["verified"], answer
        code, text = lab.exec(answer["asked_on"], f"stat -c %s {answer['archive']}; rm {answer['archive']}")
        assert (code, text.strip()) == (0, str(answer["bytes"])), text
        assert answer["archive"].endswith(".tgz")


def test_what_is_refused_is_one_sentence_and_changes_nothing(lab: Lab, witness: Witness) -> None:
    """The member's own refusal, with who it was; or the runner's, where nobody can be asked."""
    with nothing_changes(witness) as leader:
        follower, victim = others(leader)
        for verb, words, expected in (
            ("force_leader", (), "is the leader (leading"),  # it may be asked itself: nobody's data are newer
            ("force_leader", (f"node={follower}",), f"{follower}: force-leader: {leader} is the leader"),
            ("force_leader", ("node=be9",), "no such member"),
            ("remove_node", (victim,), "it is still running"),
            ("remove_node", ("be9",), "no such member"),
            ("restore", ("/root/none.tar.zst",), f"{leader}: "),
        ):
            said = run(lab, verb, *words).get("error", "it succeeded")
            assert expected in said, f"{verb} {words}: {said}"
        for verb in ("demote", "backup", "gather_logs"):
            said = run(lab, verb, cluster="other").get("error", "it succeeded")
            assert "no accepted minion is a member of a cluster 'other'; pillar chefha has lab" in said, said
