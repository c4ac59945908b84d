"""etcd -> beacon -> reactor -> module, with a real master, minions and etcd; times are printed (`pytest -s`)."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from tests.salt.playground import MINIONS, Cluster


def forget(cluster: Cluster) -> None:
    for leaderl in cluster.leaderls.values():
        leaderl.asked.clear()
        leaderl.heard.clear()


def asked_for(cluster: Cluster, name: str, epoch: int) -> list[float]:
    return [at for asked, at in cluster.leaderls[name].asked if asked == epoch]


def await_asked(cluster: Cluster, name: str, epoch: int) -> float:
    """When the node was first asked to converge for the epoch."""
    end = time.monotonic() + 20
    while not asked_for(cluster, name, epoch):
        assert time.monotonic() < end, f"{name} was not asked to converge for epoch {epoch}"
        cluster.leaderls[name].heard.wait(0.02)
        cluster.leaderls[name].heard.clear()
    return asked_for(cluster, name, epoch)[0]


def test_a_new_leader_makes_every_member_converge_within_a_second(cluster: Cluster) -> None:
    times = []
    for epoch in range(1001, 1009):
        forget(cluster)
        leader = MINIONS[epoch % 2]
        began = cluster.lead(leader, epoch, "promoting")
        times.append(max(await_asked(cluster, name, epoch) - began for name in MINIONS))
        cluster.lead(leader, epoch, "leading")
    print(f"\nkey written -> converge runs on the last member: median {statistics.median(times):.3f} s, "
          f"most {max(times):.3f} s, {len(times)} times")  # fmt: skip
    assert statistics.median(times) < 1.0


def test_f62_a_reaction_that_works_is_not_repeated_by_the_others(cluster: Cluster) -> None:
    forget(cluster)
    cluster.lead("be2", 1100, "promoting")
    await_asked(cluster, "be1", 1100)
    cluster.lead("be2", 1100, "leading")
    cluster.lead("be1", 1101, "promoting")
    await_asked(cluster, "be2", 1101)
    cluster.lead("be1", 1101, "leading")
    cluster.lead("be2", 1102, "promoting")
    await_asked(cluster, "be1", 1102)
    cluster.lead("be2", 1102, "leading")
    assert len(asked_for(cluster, "be1", 1100)) == 1, "two changes and their second voices later: still one"


def test_f64_another_member_reports_where_the_new_leader_has_no_minion(cluster: Cluster) -> None:
    forget(cluster)
    began = cluster.lead("be3", 1200, "promoting")
    took = max(await_asked(cluster, name, 1200) - began for name in MINIONS)
    print(f"\nthe new leader has no minion: converge after {took:.3f} s")
    assert 1.0 < took < 4.0
    cluster.lead("be3", 1200, "leading")


def test_renewals_are_no_events(cluster: Cluster) -> None:
    cluster.lead("be1", 1250, "promoting")
    await_asked(cluster, "be2", 1250)
    for _ in range(20):
        cluster.lead("be1", 1250, "leading")
    cluster.lead("be2", 1251, "promoting")
    await_asked(cluster, "be2", 1251)
    assert len(asked_for(cluster, "be2", 1250)) == 1
    cluster.lead("be2", 1251, "leading")


def test_the_job_is_in_the_job_cache(cluster: Cluster) -> None:
    cluster.lead("be2", 1300, "promoting")
    await_asked(cluster, "be1", 1300)
    cluster.lead("be2", 1300, "leading")
    jobs = cluster.master.salt_run_cli().run("jobs.list_jobs", 'search_function="chefha.converge"').data
    assert any({"epoch": 1300, "timeout": 30}.items() <= argument.items()
               for job in jobs.values() for argument in job["Arguments"] if isinstance(argument, dict))  # fmt: skip


def test_verbs_return_plain_data_and_refuse_in_one_sentence(cluster: Cluster) -> None:
    data = cluster.cli.run("chefha.cluster_status", minion_tgt="be1").data
    assert [row["name"] for row in data["members"]] == ["be1", "be2", "be3"]
    json.dumps(data)
    refused = cluster.cli.run("chefha.promote", "be3", minion_tgt="be1")
    assert "promote be3: be3 has not reported lately" in str(refused.data) and "Traceback" not in str(refused.data)
    wrong: Any = cluster.cli.run("chefha.converge", epoch="soon", minion_tgt="be1")
    assert "epoch is 'soon'" in str(wrong.data)
