"""remove-node and force-leader as verbs: what they refuse, what they tell, and that a step that fails is seen."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from tests.unit.plan_builder import report, view

from chefha_core.layout.leaderl import leaderl
from chefha_core.model import PgState
from chefha_core.settings import Leaderl, Search, Secrets, Settings
from chefha_core.verbs import cluster_status, quorum_loss, remove_node, search_alone
from chefha_core.verbs.reach import VerbError
from chefha_core.verbs.steps import Steps

MEMBERS = {"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}


def settings(**more: Any) -> Settings:
    return Settings(members=MEMBERS, vip="127.0.0.9", secrets=Secrets("s", "r", "t"), **more)


def test_a_node_that_is_unknown_or_is_this_one_is_not_removed() -> None:
    assert remove_node.why_not(settings(), "a", "d") == "no such member; the cluster has a, b, c"
    assert "that is this node" in remove_node.why_not(settings(), "a", "a")


def test_a_node_whose_services_answer_is_not_removed() -> None:
    with socket.create_server(("127.0.0.3", 0)) as server:
        port = server.getsockname()[1]
        refusal = remove_node.why_not(settings(leaderl=Leaderl(http_port=port)), "a", "c")
        assert refusal.startswith(f"it is still running: leaderl (127.0.0.3:{port}) answers")
    assert "leaderl" not in remove_node.why_not(settings(leaderl=Leaderl(http_port=port)), "a", "c")


def test_a_removed_member_is_shown_as_removed_and_its_silence_is_no_problem() -> None:
    there = view(members={"a": report("a", pg=PgState.PRIMARY, role="leader"), "b": report("b")})
    gone = view(members=there.members, removed=frozenset({"c"}), alone="a")
    answers = cluster_status.Answers(gone, problems={"c": "timed out", "b": "timed out"})
    found = cluster_status.report(settings(), answers)
    assert found["members"][2]["role"] == "removed" and "joins under its name" in found["members"][2]["reason"]
    assert found["problems"] == {"b": "timed out"}
    assert (found["removed"], found["alone"]) == (["c"], "a")


def test_the_question_says_what_may_be_missing() -> None:
    text = quorum_loss.in_words("b", {"a": "3:0/500", "b": "3:0/400", "c": "unknown"})
    assert "it is at 3:0/400, last known were a at 3:0/500, c at unknown" in text


def test_recovery_is_refused_without_etcd_of_its_own_or_without_data() -> None:
    assert "etcd is your own" in quorum_loss.why_not(settings(etcd_endpoints=("http://192.0.2.1:2379",)), "a")
    assert "no data of etcd" in quorum_loss.why_not(settings(), "a")


def test_an_etcd_that_could_not_be_started_alone_forgets_nobody_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever ends the attempt, the mark that makes a start forget the others does not outlive it."""
    mark, seen = tmp_path / "etcd-alone", list[bool]()

    def fails(action: str, unit: str) -> None:
        seen.append(mark.exists())
        raise VerbError("systemd says no")

    monkeypatch.setattr(quorum_loss, "ALONE", mark)
    monkeypatch.setattr(quorum_loss, "systemctl", fails)
    with pytest.raises(VerbError, match="systemd says no"):
        quorum_loss.start_alone(settings(), "a", 1.0)
    assert seen == [True] and not mark.exists()


def test_leaderl_is_the_last_wish_of_its_layout() -> None:
    """So whatever else changes there restarts it: Salt asks a state that changed something no more what it watches."""
    wishes = leaderl(settings(), "a")
    assert wishes[-1].restart == "chefha-leaderl.service" and not any(wish.restart for wish in wishes[:-1])


def test_search_goes_on_alone_by_its_makers_program() -> None:
    wanted = settings(search=Search(flavor="opensearch", version="1.3.20"))
    started = "SEARCH_COMMAND=/opt/x/bin/opensearch -Ea=b\nOPENSEARCH_JAVA_HOME=/usr/lib/jvm/java-21\n"
    command, environment = search_alone.program(wanted, started)
    assert command == ["/opt/x/bin/opensearch-node", "unsafe-bootstrap"]
    assert environment["OPENSEARCH_JAVA_HOME"] == "/usr/lib/jvm/java-21"
    assert environment["OPENSEARCH_PATH_CONF"] == "/etc/chefha/search"
    with pytest.raises(VerbError, match="does not say where the engine is"):
        search_alone.program(wanted, "")


def test_search_that_cannot_be_brought_back_is_told_and_stops_nothing(tmp_path: Path) -> None:
    wanted = settings(search=Search(flavor="opensearch", version="1.3.20"))
    assert "not brought back" in search_alone.go_on_alone(wanted, "a", 0.0, tmp_path / "none")


def test_a_step_that_fails_is_told_and_those_after_it_are_not_reached() -> None:
    seen: list[dict[str, Any]] = []
    steps = Steps(("one", "two", "three"), seen.append)
    with pytest.raises(VerbError), steps.step("one"):
        raise VerbError("no")
    assert [(row["step"], row["outcome"]) for row in seen] == [
        ("one", "failed"),
        ("two", "not reached"),
        ("three", "not reached"),
    ]
