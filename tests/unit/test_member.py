"""Whether a member is well: what the highstate waits for."""

from __future__ import annotations

from typing import Any

import pytest

from chefha_core.verbs import member
from chefha_core.verbs.reach import VerbError


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"role": "leader", "streaming": False}, ""),
        ({"role": "follower", "streaming": True}, ""),
        (
            {"role": "follower", "streaming": False, "reason": "not streaming from be1 yet"},
            "this node is follower: not streaming from be1 yet",
        ),
        (
            {"role": "follower", "streaming": True, "job": "Slots", "reason": "busy: Slots"},
            "this node is follower: busy: Slots",
        ),
        (
            {"role": "waiting_for_leader", "reason": "etcd does not answer"},
            "this node is waiting_for_leader: etcd does not answer",
        ),
    ],
    ids=["leads", "follows", "runs and does not stream", "is busy", "waits"],
)
def test_a_member_is_well_that_leads_or_streams(
    said: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "leaderl_status", lambda timeout, path: said)
    assert member.member_problem() == problem


def test_a_leaderl_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaderl_status(timeout: float, path: object) -> dict[str, Any]:
        raise VerbError("leaderl on this node does not answer")

    monkeypatch.setattr(member, "leaderl_status", leaderl_status)
    assert member.member_problem() == "leaderl on this node does not answer"
