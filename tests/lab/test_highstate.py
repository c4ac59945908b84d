"""The states on bare machines: what test mode says is what happens, and once is enough."""

from __future__ import annotations

import time

import pytest
from lab.api import Lab
from lab.timing import postgresql_ready
from lab.topology import BACKENDS
from lab.witness import Witness, in_words, why_not_converged
from tests.lab.bring_up import APPLY_TIMEOUT, BringUp, did_change, failed, minions, states, would_change

#: states that change nothing themselves: by the time they are reached there may be nothing left to wait for
WAITS = {
    f"chefha_{what} (chefha)" for what in ("etcd_healthy", "member_healthy", "search_healthy", "backend_reachable")
}
#: seconds; many times what `python -m bench.highstate` has, for machines that are busy
READY_WITHIN, AGAIN_WITHIN = 180.0, 60.0
pytestmark = pytest.mark.everywhere


def test_highstate_from_nothing_makes_a_whole_cluster(lab: Lab, bring_up: BringUp) -> None:
    """One highstate on bare machines: one leader with the VIP, two followers streaming from it."""
    for minion in minions(lab):
        assert not failed(bring_up.came_true[minion])
    assert not why_not_converged(bring_up.found), in_words(bring_up.found)


def test_test_mode_changes_nothing(bring_up: BringUp) -> None:
    """test=True on bare machines leaves files, packages and services as they are."""
    assert bring_up.before_test == bring_up.after_test


def test_test_mode_told_the_truth(lab: Lab, bring_up: BringUp) -> None:
    """What test=True announced on bare machines (None) is exactly what the first highstate changed."""
    for minion in minions(lab):
        promised, came_true = would_change(bring_up.promised[minion]), did_change(bring_up.came_true[minion])
        assert not failed(bring_up.promised[minion])
        assert promised - came_true - WAITS == set(), f"{minion}: announced, but nothing changed"
        assert came_true - promised == set(), f"{minion}: changed without having been announced"


def test_postgresql_is_ready_soon_after_its_packages(bring_up: BringUp) -> None:
    """The leader with the VIP and both followers; `python -m bench.highstate` has the figures."""
    ready = postgresql_ready(bring_up.came_true)
    assert 0 < ready <= READY_WITHIN, f"PostgreSQL was ready after {ready:.0f} s"


def test_second_highstate_changes_nothing(lab: Lab, witness: Witness) -> None:
    """Once is enough: the second highstate soon ends, changes nothing anywhere, and the leader goes on leading."""
    before, began = witness.look(), time.monotonic()
    answers = lab.salt("*", "state.apply", timeout=APPLY_TIMEOUT)
    took = time.monotonic() - began
    assert took <= AGAIN_WITHIN, f"the second highstate took {took:.0f} s"
    for minion in minions(lab):
        assert not failed(answers[minion])
        changes = {name: states(answers[minion])[name]["changes"] for name in did_change(answers[minion])}
        assert not changes, f"{minion}: {changes}"
    after = witness.look()
    assert [(row.name, row.vip, row.epoch) for row in before] == [(row.name, row.vip, row.epoch) for row in after]


def test_modules_and_library_are_of_one_version_everywhere(lab: Lab) -> None:
    """F68: every member says the same versions of modules, library, PostgreSQL and etcd."""
    said = lab.salt("be*", "chefha.version")
    assert set(said) == {node.name for node in BACKENDS}
    first = said[BACKENDS[0].name]
    assert first["library"] == first["modules"]
    assert all(answer == first for answer in said.values()), said
