"""Every verb while etcd is down, while a member is down, and without a leader: its proper answer or one clear sentence.

A row is a verb, in the shell and, where it has a function, through Salt. Each situation is made once, and its rows are
tried at the same time. Whatever they answer, nothing has changed afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from lab.api import Lab
from lab.topology import BY_NAME
from lab.witness import Witness, others
from tests.lab.shell import PATIENCE, WELL, in_shell
from tests.lab.story import HICCUP, Story, poll, under_load

NO_ETCD = "etcd does not answer"
NO_LEADER = "no leader now"
NOT_CONVERGED = "not converged"
#: seconds for a verb and the two cores that all machines share; Salt takes its own time besides
DEADLINE = 10.0


@dataclass(frozen=True)
class Row:
    """A verb with its arguments, and what it says in each situation: WELL, or words of its refusal; None where it would
    do what other tests have it do. `function` is the same for Salt, "" where there is none; `within` is in seconds.

    {gone}: a member that is down, or another one where none is; {self}: where it is asked; {leader}: its address.
    """

    shell: str
    function: str = ""
    etcd_down: str | None = WELL
    member_down: str | None = WELL
    no_leader: str | None = WELL
    within: float = field(default=DEADLINE, kw_only=True)


ROWS = (
    Row("cluster-status", "cluster_status"),
    Row("cluster-status --json"),
    Row("status", "status"),
    Row("status etcd"),
    Row("status --simple"),
    Row("version"),
    Row("show-config"),
    Row("gen-sample-backend-config"),
    Row("gen-server-config chef.example.com"),
    Row("promote {gone}", "promote {gone}", NO_ETCD, "has not reported lately", NO_LEADER),
    Row("promote be9", "", NO_ETCD, "no such member", "no such member"),
    Row("demote", "demote", NO_ETCD, "is not the leader", NO_LEADER),
    # as it is already, so that nothing changes: on, and off where the situation has no leader because of that
    Row("set-cluster-failover {failover}", "set_cluster_failover {failover}", NO_ETCD),
    Row("set-node-failover on", "set_node_failover on", NO_ETCD),
    Row("set-cluster-failover perhaps", "", *["expected one of on"] * 3),
    Row("converge --timeout 2", "converge timeout=2", NOT_CONVERGED, WELL, NOT_CONVERGED),
    Row("backup --timeout 30", within=PATIENCE),
    Row("restore /nothing.tar.zst --yes", "restore /nothing.tar.zst", NO_ETCD, "is not the leader", NO_LEADER),
    Row("bootstrap --yes", "bootstrap", "there are data in", *["etcd knows this cluster already"] * 2),
    Row("create-cluster --yes --quorum-loss-recovery", "", "bring etcd's quorum back", *["etcd has a quorum"] * 2),
    Row("join-cluster {leader}", "join_cluster {leader}", *["is a member already"] * 3),
    Row("join-cluster {leader} -p {leader}", "", *["change pillar chefha:members"] * 3),
    Row("remove-node {self} --yes", "remove_node {self}", *["that is this node"] * 3),
    Row("remove-node {gone} --yes", "", "it is still running", None, "it is still running"),
    Row("force-leader --yes", "force_leader", NO_ETCD, "is the leader", None),
    Row("upgrade", "upgrade", *["the cluster is not well"] * 3, within=PATIENCE),
    Row("cleanse --yes", "cleanse yes=True", NO_ETCD, *["is still a member of the cluster"] * 2),
    Row("uninstall", "uninstall", *["if that is wanted"] * 3),
    Row("service-list", "service_list"),
    Row("start postgresql", "start postgresql"),
    Row("hup leaderl", "hup leaderl", *["use restart"] * 3),
    Row("hup postgresql", "hup postgresql"),
    Row("stop postgresql", "stop postgresql", *["stop leaderl first"] * 3),
    Row("tail etcd -n 3 --json", "tail etcd lines=3"),
    Row("gather-logs --directory /var/tmp", within=PATIENCE),
)
#: one after the other, on another node, whose minion nobody asks meanwhile: it takes ten seconds to end
IN_TURN = (
    Row("stop salt-minion", within=PATIENCE),
    # the shell command needs no minion
    *(Row(verb) for verb in ("cluster-status", "status", "version", "show-config", "service-list")),
    *(Row(f"{verb} salt-minion", within=PATIENCE) for verb in ("once", "term", "start", "kill", "restart")),
)
#: after all others, for it changes things: the states start etcd here and wait for the others, or for a leader
LAST = Row("reconfigure --timeout 20", "", "not done within 20 s", WELL, "not done within 20 s", within=PATIENCE)


def by_salt(lab: Lab, node: str, words: str) -> tuple[str, float]:
    """The same of the function: "" if it succeeds, or its one sentence."""
    began = time.monotonic()
    function, *arguments = words.split()
    said: Any = lab.salt(node, f"chefha.{function}", *arguments, timeout=PATIENCE)[node]
    took = time.monotonic() - began
    assert "Traceback" not in str(said), f"{words}: {said}"
    if isinstance(said, str) and said.startswith("ERROR: "):
        assert "\n" not in said.strip(), f"{words}: {said}"
        return said, took
    return WELL, took


def try_all(
    lab: Lab, node: str, another: str, values: Mapping[str, str], expected: Callable[[Row], str | None]
) -> list[str]:
    """Try all rows on `node`, a few at once, and those of IN_TURN on `another` meanwhile; what they answer wrongly."""

    def attempt(
        way: Callable[[Lab, str, str], tuple[str, float]], words: str, wanted: str, within: float, where: str = node
    ) -> list[str]:
        words = words.format_map(values)
        said, took = way(lab, where, words)
        slow = [f"{words}: {took:.1f} s"] if took > within else []
        as_wanted = wanted in said if wanted else said == WELL
        return slow + ([] if as_wanted else [f"{words}: expected {wanted or 'success'}, got {said or 'success'}"])

    rows = [(row, wanted) for row in ROWS if (wanted := expected(row)) is not None]
    work = [(in_shell, row.shell, wanted, row.within) for row, wanted in rows]
    work += [(by_salt, row.function, wanted, PATIENCE) for row, wanted in rows if row.function]
    with ThreadPoolExecutor(5) as pool:
        turns = pool.submit(lambda: [attempt(in_shell, row.shell, WELL, row.within, another) for row in IN_TURN])
        found = list(pool.map(lambda job: attempt(*job), work)) + turns.result()
    found.append(attempt(in_shell, LAST.shell, expected(LAST) or WELL, LAST.within))
    return [problem for problems in found for problem in problems]


@contextmanager
def etcd_down(story: Story) -> Iterator[tuple[str, str]]:
    """etcd is stopped on all members; the leader leads on, because the others agree."""
    members = (story.leader, *story.followers)

    def service(verb: str) -> None:
        with ThreadPoolExecutor(len(members)) as pool:
            list(pool.map(lambda name: story.lab.exec(name, f"systemctl {verb} chefha-etcd.service"), members))

    service("stop")
    try:
        yield story.followers[1], "on"
    finally:
        service("start")


@contextmanager
def member_down(story: Story) -> Iterator[tuple[str, str]]:
    """A follower has lost its power long enough for all to know."""
    gone = story.followers[1]
    story.inject("kill-host", gone)
    asked_on = story.followers[0]
    command = f"chef-backend-ctl promote {gone}"
    assert poll(lambda: "reported lately" in story.lab.exec(asked_on, command)[1], 45), "it still counts as present"
    yield gone, "on"


@contextmanager
def no_leader(story: Story) -> Iterator[tuple[str, str]]:
    """The leader is lost for good while failover is switched off, and its key is deleted by hand."""
    asked_on = story.followers[0]
    assert story.lab.exec(asked_on, "chef-backend-ctl set-cluster-failover off")[0] == 0
    try:
        story.inject("kill-host", story.leader)
        delete = (
            "export ETCDCTL_API=3 ETCDCTL_USER=root ETCDCTL_PASSWORD=$(python3 -c 'import json; "
            'print(json.load(open("/etc/chefha/settings.json"))["secrets"]["etcd_root_password"])\'); '
            "tls=/etc/chefha/tls; etcdctl --endpoints $(hostname -I | cut -d ' ' -f 1):2379 --cacert $tls/ca.crt "
            "--cert $tls/server.crt --key $tls/server.key del /chefha/lab/leader"
        )
        poll(lambda: story.lab.exec(asked_on, delete)[0] == 0, 20)
        heard = poll(lambda: not any(row.epoch for row in story.witness.look() if row.reachable), 20)
        assert heard, "somebody still thinks that there is a leader"
        yield story.followers[1], "off"
    finally:
        story.lab.exec(asked_on, "chef-backend-ctl set-cluster-failover on")


@pytest.mark.soak
@pytest.mark.parametrize(
    ("situation", "outage"),
    [(etcd_down, HICCUP), (member_down, HICCUP), (no_leader, 150.0)],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_every_verb_answers_and_changes_nothing(lab: Lab, witness: Witness, situation: Any, outage: float) -> None:
    """Within its deadline, with its proper result or in one sentence; the leader is who it was, in the same epoch."""
    with under_load(lab, outage=outage) as story, situation(story) as (gone, failover):
        before = {(row.name, row.epoch) for row in witness.look() if row.reachable}
        asked_on = story.followers[0]
        another = next(name for name, _ in sorted(before) if name != asked_on)
        values = {"gone": gone, "failover": failover, "self": asked_on, "leader": BY_NAME[story.leader].address}
        problems = try_all(lab, asked_on, another, values, lambda row: getattr(row, situation.__name__))
        lab.exec(asked_on, "rm -f /var/tmp/chefha-* /var/opt/chef-backup/chef-backup-*")
        assert not problems, "\n".join(problems)
        assert {(row.name, row.epoch) for row in witness.look() if row.reachable} == before


def test_promote_while_another_promote_runs(lab: Lab, witness: Witness) -> None:
    """The second one is refused in a sentence that says whose is under way; the first comes to its end."""
    witness.await_converged(60)
    leader = witness.leader()
    one, other = others(leader)
    checkpointer = "pkill -{} -f '^postgres: .*checkpointer'"
    with ThreadPoolExecutor(1) as pool:
        lab.exec(leader, checkpointer.format("STOP"))
        try:
            first = pool.submit(in_shell, lab, one, f"promote {one}")
            time.sleep(3)
            refused, _ = in_shell(lab, other, f"promote {other}")
        finally:
            lab.exec(leader, checkpointer.format("CONT"))
        assert f"a hand-over to {one} is under way already, asked for by {one}" in refused
        assert first.result()[0] == WELL
    assert witness.leader() == one
    witness.await_converged(60)
