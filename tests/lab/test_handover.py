"""Planned hand-over through Salt: under load both ways, and refused with a reason that leaves all as it was."""

from __future__ import annotations

from typing import Any

import pytest
from lab.api import Lab
from lab.topology import BACKENDS
from lab.witness import Witness, others
from tests.lab.postgresql import hanging, sql
from tests.lab.shell import WELL, in_shell
from tests.lab.story import HICCUP, poll, under_load

ASKED_ON = BACKENDS[0].name
REFUSAL_TIMEOUT = 45.0
MIB = 1 << 20


def promote(lab: Lab, node: str) -> Any:
    """What `salt be1 chefha.promote NODE` answers: a dict if it was done, a text if not."""
    return lab.salt(ASKED_ON, "chefha.promote", node, timeout=REFUSAL_TIMEOUT)[ASKED_ON]


def assert_refused(lab: Lab, witness: Witness, node: str, *words: str) -> None:
    """The hand-over is refused in one sentence with one of these words; the leader leads on in its epoch."""
    before, epoch = witness.leader(), max(row.epoch for row in witness.look())
    answer = promote(lab, node)
    assert isinstance(answer, str), f"not refused: {answer}"
    assert "Traceback" not in answer
    assert any(word in answer for word in words), answer
    assert witness.leader() == before
    assert max(row.epoch for row in witness.look()) == epoch


@pytest.mark.everywhere
def test_f51_a_demoted_leader_can_lead_again(lab: Lab, witness: Witness) -> None:
    """F51: handed over under load and back, each way one command, nothing lost; the verb tells steps and seconds."""
    with under_load(lab, outage=HICCUP) as story:
        for target in (story.followers[0], story.leader):
            answer = promote(lab, target)
            assert isinstance(answer, dict), answer
            assert answer["leader"] == target
            assert [step["outcome"] for step in answer["steps"]] == ["done"] * len(answer["steps"])
            assert witness.leader() == target
            witness.await_converged(45)


def test_f51_the_leader_gives_up_on_demand(lab: Lab, witness: Witness) -> None:
    """F51: demote on the leader makes another one lead; on a follower it is refused."""
    witness.await_converged(45)
    with under_load(lab, outage=HICCUP) as story:
        refusal = lab.salt(story.followers[0], "chefha.demote", timeout=REFUSAL_TIMEOUT)[story.followers[0]]
        assert f"{story.followers[0]} is not the leader" in refusal
        answer = lab.salt(story.leader, "chefha.demote", timeout=REFUSAL_TIMEOUT)[story.leader]
        assert (answer["previous"], answer["leader"] in story.followers) == (story.leader, True), answer
        assert witness.leader() == answer["leader"]


def test_promote_of_an_unknown_node_is_refused(lab: Lab, witness: Witness) -> None:
    """No such member: one sentence that names those there are."""
    assert_refused(lab, witness, "be9", "no such member")


def test_promote_of_the_leader_is_refused(lab: Lab, witness: Witness) -> None:
    """It leads already."""
    assert_refused(lab, witness, witness.leader(), "is the leader already")


def test_f51_candidate_dies_before_the_hand_over(lab: Lab, witness: Witness) -> None:
    """F51: a follower without power can't be promoted; asked for at once, while etcd still holds its last report, or
    once it is known to be away, the leader goes on, or goes on again, and loses nothing."""
    with under_load(lab) as story:
        victim = next(name for name in story.followers if name != ASKED_ON)
        story.inject("kill-host", victim)
        assert isinstance(promote(lab, victim), str)
        gone = poll(lambda: "reported lately" in str(promote(lab, victim)), 30)
        assert gone, "a member without power still counts as present"
        assert witness.leader() == story.leader


def test_f40_promote_of_a_lagging_node_is_refused(lab: Lab, witness: Witness) -> None:
    """F07, F40: a follower whose WAL receiver hangs falls behind; it is not promoted, and writes go on without it."""
    leader = witness.leader()
    follower = others(leader)[0]
    far_ahead = f"SELECT pg_logical_emit_message(false, 'lab', repeat('x', {MIB})) FROM generate_series(1, 60)"
    with hanging(lab, follower, "walreceiver"):
        sql(lab, leader, far_ahead)
        assert_refused(lab, witness, follower, "bytes behind", "does not stream")
    witness.await_converged(60)


def test_a_hand_over_that_is_not_done_in_the_time_allowed_leaves_the_old_leader(lab: Lab, witness: Witness) -> None:
    """The checkpoint before it hangs: promote and demote end in one sentence, nobody is asked any more, it leads on and
    takes writes; once it can, it hands over as ever."""
    witness.await_converged(60)
    leader = witness.leader()
    follower, epoch = others(leader)[0], max(row.epoch for row in witness.look())
    with hanging(lab, leader, "checkpointer"):
        for words in (f"promote {follower} --timeout 2", "demote --timeout 2"):
            said, took = in_shell(lab, leader, words)
            assert f"no hand-over within 2 s; {leader} is leading" in said, f"{words}: {said or 'it succeeded'}"
            assert took < HICCUP, f"{words}: {took:.1f} s"
        answer = lab.salt(ASKED_ON, "chefha.promote", follower, "timeout=2", timeout=REFUSAL_TIMEOUT)[ASKED_ON]
        assert isinstance(answer, str) and "no hand-over within 2 s" in answer and "Traceback" not in answer, answer
        sql(lab, leader, "SELECT pg_logical_emit_message(true, 'lab', 'a commit')")
    witness.await_converged(60)
    assert (witness.leader(), max(row.epoch for row in witness.look())) == (leader, epoch)
    assert in_shell(lab, leader, f"promote {follower}")[0] == WELL
    assert witness.leader() == follower
    witness.await_converged(60)


def test_a_candidate_that_does_not_get_the_end_of_the_log_leaves_the_old_leader(lab: Lab, witness: Witness) -> None:
    """PostgreSQL stops on the leader, and the candidate's WAL receiver hangs: whether the verb's time is over first, or
    the candidate has not everything, the old leader serves again, and nothing is lost."""
    with under_load(lab, outage=HICCUP) as story:
        leader, follower = story.leader, story.followers[0]
        for timeout, expected in ((2, "no hand-over within 2 s"), (30, f"nobody took over, so {leader} leads again")):
            with hanging(lab, follower, "walreceiver"):
                said, _ = in_shell(lab, leader, f"promote {follower} --timeout {timeout}")
                assert expected in said, said or "it succeeded"
                story.await_writes_again()
            witness.await_converged(60)
            assert (witness.leader(), max(row.epoch for row in witness.look())) == (leader, story.epoch)
