"""The lab's own judgement: what a stack comes to, and what is read out of answers and measurements."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from lab import search_probe, timing
from lab.progress import LabError
from lab.stack import STACKS, Stack, parse_override, pillar
from lab.topology import BACKENDS, FRONTENDS
from lab.witness import why_no_search

from chefha_core.secrets import generate
from chefha_core.settings import from_pillar


@pytest.mark.parametrize("stack", STACKS.values(), ids=lambda stack: stack.name)
def test_every_stack_has_a_pillar_that_chefha_accepts(stack: Stack) -> None:
    made = generate({node.name: node.address for node in BACKENDS}, "10.213.77.100")
    settings = from_pillar(pillar(stack, wheel="", **made)["chefha"])
    assert settings.postgresql.version == stack.postgresql
    assert (settings.search.flavor, settings.search.version) == (stack.search, stack.search_version)
    assert list(settings.frontends) == [node.name for node in FRONTENDS if stack.frontends]


@pytest.mark.parametrize("stack", STACKS.values(), ids=lambda stack: stack.name)
def test_only_the_machines_of_the_stack_are_started(stack: Stack) -> None:
    assert (FRONTENDS[0] in stack.nodes) is stack.frontends
    assert set(stack.minions) < set(stack.nodes)


def test_a_stack_comes_back_from_its_label() -> None:
    pairs = (parse_override("postgresql:max_connections=100"), parse_override("durability=async"))
    stack = dataclasses.replace(STACKS["newest"], overrides=pairs)
    assert Stack.from_label(json.loads(json.dumps(stack.label()))) == stack
    assert pillar(stack)["chefha"]["postgresql"] == {"version": 17, "max_connections": 100}


def test_a_label_of_another_version_is_told_from_a_stack() -> None:
    with pytest.raises(LabError, match="lab down"):
        Stack.from_label({"postgresql": 17, "profile": "fast", "overrides": []})


def state(name: str, start: str, seconds: float) -> dict[str, Any]:
    return {"__id__": name, "start_time": start, "duration": seconds * 1000, "result": True}


def test_time_is_told_by_part_and_from_the_last_package_on() -> None:
    first = {"a": state("chefha_packages", "23:59:50.000000", 5.0), "b": state("chefha_tls_files", "23:59:55.0", 0.5),
             "c": state("chefha_member_healthy", "23:59:58.0", 10.0)}  # fmt: skip
    second = {"a": state("chefha_packages", "23:59:50.0", 2.0), "b": state("chefha_member_healthy", "23:59:59.0", 7.0)}
    assert timing.of_parts(first) == {
        "packages": 5.0, "etcd": 0.0, "PostgreSQL": 10.0, "search": 0.0, "firewall": 0.0, "front end": 0.0, "rest": 0.5,
    }  # fmt: skip
    answers = {"be1": first, "be2": second, "master": {"x": state("reactor", "23:59:00.0", 1.0)}, "be9": "no answer"}
    assert timing.postgresql_ready(answers) == pytest.approx(13.0)
    assert "13.0 s after the packages" in timing.table(answers)


def test_search_is_whole_when_every_node_says_so() -> None:
    well = {"number_of_nodes": 3, "status": "green"}
    assert why_no_search([well, well, well], 3) == []
    assert why_no_search([well, well, {}], 3) == ["2 of 3 search nodes answer"]
    assert why_no_search([well, well, {"number_of_nodes": 1, "status": "red"}], 3) == ["one knows 1 nodes and is red"]


def measured(**more: Any) -> dict[str, Any]:
    return {
        "began_at": 0.0, "seconds": 10.0, "attempts": 4, "errors": {}, "acks": [[1, 1.0], [2, 2.0], [3, 8.0]],
        "searches": 3, "answered": [1.0, 8.0, 9.0], "living": [[0.0, 3]], "missing": [], **more,
    }  # fmt: skip


def test_a_search_probe_tells_its_longest_gap_and_what_is_lost() -> None:
    result = search_probe.assess(measured(missing=[2]))
    assert (result.longest_gap, result.longest_gap_at, result.longest_silence, result.lost) == (6.0, 2.0, 7.0, 1)
    with pytest.raises(LabError, match="unchecked"):
        _ = search_probe.assess(measured(missing=None)).lost


def test_time_without_a_majority_of_search_nodes_is_told() -> None:
    living = [[0.0, 3], [2.0, 1], [5.0, 2], [9.0, 0]]
    assert search_probe.assess(measured(living=living)).without_majority == 4.0
