"""The runners with a real master and minions: one merged answer, whoever is missing named, refusals as one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.salt.playground import Cluster

from chefha_core import codec
from chefha_core.model import ClusterConfig


@pytest.fixture(autouse=True)
def _led_by_be1(cluster: Cluster) -> None:
    """Whoever led last in other tests."""
    cluster.lead("be1", 2000, "leading")


def run(cluster: Cluster, verb: str, *arguments: str) -> tuple[int, Any]:
    """Exit code and data of `salt-run chefha.VERB`, or of another runner with its whole name."""
    done = cluster.master.salt_run_cli(timeout=120).run(verb if "." in verb else f"chefha.{verb}", *arguments)
    return done.returncode, done.data


def test_one_answer_of_all_members_names_whoever_has_no_minion(cluster: Cluster) -> None:
    code, data = run(cluster, "cluster_status", "test")
    assert code == 0, data
    assert [row["name"] for row in data["members"]] == ["be1", "be2", "be3"]
    assert data["unanswered"] == {"be3": "no minion of this name is accepted on the master"}
    assert data["told_by"] in ("be1", "be2") and data["leader"] == "be1"
    json.dumps(data)


def test_a_minion_that_is_down_is_named_and_the_others_answer(cluster: Cluster) -> None:
    """Also the leader's: whoever is left tells."""
    with cluster.minions["be1"].stopped():
        code, data = run(cluster, "cluster_status", "test")
        services = run(cluster, "status", "test", "simple=True")[1]
    assert (code, data["told_by"]) == (0, "be2"), data
    assert data["unanswered"]["be1"] == "its minion does not answer"
    assert services["be1"] == {"error": "its minion does not answer"} and "services" in services["be2"]


def test_refusals_are_one_sentence_and_a_failure(cluster: Cluster) -> None:
    for asked, words in {
        ("cluster_status", "other"): "no accepted minion is a member of a cluster 'other'; pillar chefha has test",
        ("promote", "test", "be9"): "promote be9: no such member; the cluster has be1, be2, be3",
        ("set_cluster_failover", "test", "perhaps"): "the state is 'perhaps'",
        ("backup", "test"): "there is no healthy follower to do it: be1: ",
        ("force_leader", "test", "be9"): "test has no such member; it has be1, be2, be3",
        ("upgrade", "test"): "was refused before anything was touched: be1: ",
    }.items():
        code, data = run(cluster, *asked)
        assert code != 0 and words in data["error"], (asked, data)
        assert "Traceback" not in data["error"] and "\n" not in data["error"]


def test_f56_the_orchestration_fails_where_the_runner_refuses(cluster: Cluster) -> None:
    code, data = run(cluster, "state.orchestrate", "orch.chefha.upgrade", "pillar={cluster: test}")
    assert code != 0 and "refused before anything was touched" in json.dumps(data), data


def test_a_verb_is_carried_out_on_the_right_member(cluster: Cluster) -> None:
    """The switch is asked of the leader; a verb that all members have, of each."""
    cluster.etcd.put("config", codec.dump(ClusterConfig("7")))
    code, data = run(cluster, "set_cluster_failover", "test", "off")
    assert (code, data) == (0, {"failover": False, "changed": True, "asked_on": "be1"})
    assert run(cluster, "set_cluster_failover", "test", "on")[1]["failover"] is True
    code, data = run(cluster, "version", "test")
    assert code == 0 and data["be2"]["library"] == data["be2"]["modules"]
    assert data["be3"] == {"error": "no minion of this name is accepted on the master"}
