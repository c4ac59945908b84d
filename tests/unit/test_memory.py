"""What leaderl remembers is forgotten when etcd shows that it is over."""

from __future__ import annotations

import pytest
from tests.unit.plan_builder import stands, view

from chefha_core.leaderl.memory import Memory
from chefha_core.model import EtcdView

POSTED_AT = 40


@pytest.mark.parametrize(
    ("seen", "stands_still"),
    [
        (view(candidates={"b": stands("b")}, leader_revision=41), True),
        (view(leader_revision=POSTED_AT), True),
        (view(leader_revision=41), False),
        (None, True),
    ],
    ids=["candidacy is there", "its write may still arrive", "its write cannot succeed any more", "etcd is silent"],
)
def test_f33_a_candidacy_that_cannot_come_about_keeps_no_leader_from_failsafe(
    seen: EtcdView | None, stands_still: bool
) -> None:
    before = view()
    memory = Memory(standing=True, stood_against=POSTED_AT, last_view=before)
    memory.saw(seen, "b")
    assert memory.standing is stands_still
    assert (memory.view, memory.last_view) == (seen, seen or before)
