"""The judge judged: each of the five points fails where it must. Needs no lab."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from lab.api import LabError
from lab.probe import Arp, ProbeResult, Writer
from lab.witness import Seen, parsed, vip_problems, why_not_converged
from tests.lab.story import Story, assert_five_points

WRITER = Writer(0.0, 20.0, 1000, 990, {}, 0, 3.0, 5.0, [], 0, [], 0.1)
GOOD = ProbeResult(0.0, WRITER, WRITER, Arp(200, 0, 0, 0, [], []))
LEADER = Seen("be1", True, True, True, ("be2", "be3"), "leader", "leads", 3, True, True)
FOLLOWERS = [Seen(name, True, False, False, (), "follower", "follows be1", 3, True, True) for name in ("be2", "be3")]
WHOLE = [LEADER, *FOLLOWERS]


def story(result: ProbeResult, **changes: Any) -> Story:
    """A story that has ended with this result."""
    told = Story(None, None, "be1", 3, outage=15.0, _result=result)  # type: ignore[arg-type]
    return dataclasses.replace(told, **changes)


def writer(**changes: Any) -> ProbeResult:
    """A good result but for the first writer."""
    return dataclasses.replace(GOOD, writer=dataclasses.replace(WRITER, **changes))


def test_a_good_end_passes() -> None:
    """All five points hold."""
    assert_five_points(story(GOOD))


@pytest.mark.parametrize(
    ("told", "point"),
    [
        (story(dataclasses.replace(GOOD, arp=dataclasses.replace(GOOD.arp, doubles=1))), "(a)"),
        (story(writer(by_old_leader=1)), "(a)"),
        (story(writer(missing=[7])), "(b)"),
        (story(writer(longest_gap=15.1)), "(c)"),
        (story(GOOD, converged_after=91.0), "(d)"),
        (story(GOOD, unsettling=["two have it"]), "(e)"),
    ],
)
def test_each_point_fails_where_it_must(told: Story, point: str) -> None:
    """One thing wrong is enough, and the message says which point it is."""
    with pytest.raises(AssertionError) as failure:
        assert_five_points(told)
    assert str(failure.value).startswith(point)


def test_writes_that_nobody_could_look_for_are_not_taken_for_kept() -> None:
    """Without a primary to read from there is no verdict, and that is no success."""
    with pytest.raises(LabError):
        assert_five_points(story(writer(missing=None)))


def test_a_whole_cluster_has_no_problems() -> None:
    """One leader, two followers, everything at work."""
    assert why_not_converged(WHOLE) == []
    assert vip_problems(WHOLE) == []


@pytest.mark.parametrize(
    "rows",
    [
        [dataclasses.replace(LEADER, standbys=("be2",)), *FOLLOWERS],
        [dataclasses.replace(LEADER, vip=False), *FOLLOWERS],
        [dataclasses.replace(LEADER, etcd=False), *FOLLOWERS],
        [dataclasses.replace(LEADER, master=False), *FOLLOWERS],
        [LEADER, FOLLOWERS[0], Seen("be3", False)],
        [LEADER, FOLLOWERS[0], dataclasses.replace(FOLLOWERS[1], vip=True)],
        [LEADER, FOLLOWERS[0], dataclasses.replace(FOLLOWERS[1], writable=True)],
        [LEADER, FOLLOWERS[0], dataclasses.replace(FOLLOWERS[1], writable=None)],
        [LEADER, FOLLOWERS[0], dataclasses.replace(FOLLOWERS[1], role="waiting_for_leader")],
    ],
)
def test_whatever_is_missing_is_a_problem(rows: list[Seen]) -> None:
    """Each of these is not a whole cluster."""
    assert why_not_converged(rows)


def test_the_vip_on_a_standby_or_on_two_nodes_is_a_problem() -> None:
    """Point (e), from what the machines say."""
    assert vip_problems([dataclasses.replace(LEADER, writable=False), *FOLLOWERS])
    assert vip_problems([LEADER, dataclasses.replace(FOLLOWERS[0], vip=True), FOLLOWERS[1]])
    assert vip_problems([dataclasses.replace(LEADER, vip=False), *FOLLOWERS])


def test_what_a_machine_says_is_understood() -> None:
    """The lines of the script on the machine; what is missing there is not well."""
    text = (
        'vip=yes\npostgresql=f be2 be3\nleaderl={"role": "leader", "epoch": 3, "reason": "a=b"}\netcd=yes\nmaster=yes'
    )
    assert parsed("be1", text) == dataclasses.replace(LEADER, reason="a=b")
    assert parsed("be2", "") == Seen("be2", reachable=True)
    assert parsed("be2", "postgresql=t ").writable is False
