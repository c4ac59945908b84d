"""A node's services, logs, states and leave-taking, on real systemd: each verb by the shell and by Salt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab.api import Lab
from lab.stack import CLUSTER
from lab.topology import BACKENDS
from lab.witness import Seen, Witness, others
from tests.lab.bring_up import APPLY_TIMEOUT, did_change, failed
from tests.lab.postgresql import sql
from tests.lab.secrecy import secrets_of
from tests.lab.story import poll

CTL = "chef-backend-ctl "
#: seconds for a verb, for a cluster that was touched, and for one that was stopped as a whole
VERB = 90.0
CONVERGED = 90.0
ELECTED = 120.0


def ctl(lab: Lab, node: str, words: str, code: int = 0) -> str:
    """What chef-backend-ctl prints on a node; it must end with ``code``."""
    ended, text = lab.exec(node, CTL + words, VERB)
    assert ended == code, f"{node}: {words}: {ended}\n{text}"
    return text


def salt(lab: Lab, node: str, function: str, *words: str, timeout: float = VERB) -> Any:
    """What a function of module chefha answers."""
    return lab.salt(node, f"chefha.{function}", *words, timeout=timeout)[node]


def pids(lab: Lab, node: str) -> dict[str, int]:
    """Main process of each of chefha's services."""
    answer = json.loads(ctl(lab, node, "status --simple --json"))
    return {name: row["pid"] for name, row in answer["services"].items()}


@contextmanager
def untouched(witness: Witness) -> Iterator[None]:
    """Within the block nobody else takes over, and afterwards the cluster is whole."""

    def reign(rows: list[Seen]) -> set[tuple[str, int]]:
        return {(row.name, row.epoch) for row in rows if row.vip}

    before = reign(witness.look())
    yield
    witness.await_converged(CONVERGED)
    assert reign(witness.look()) == before


def apply(lab: Lab, node: str) -> None:
    """state.apply, and nothing fails."""
    answer = lab.salt(node, "state.apply", timeout=APPLY_TIMEOUT)[node]
    assert not failed(answer)


def test_service_verbs_of_the_shell(lab: Lab, witness: Witness) -> None:
    """On a follower: each verb does what the table says, and waits until it is so."""
    witness.await_converged(CONVERGED)
    node = others(witness.leader())[0]
    with untouched(witness):
        listed = ctl(lab, node, "service-list")
        assert "chefha-etcd.service" in listed and "by leaderl" in listed
        assert "down: etcd: " in ctl(lab, node, "stop etcd")
        assert "etcd does not run" in ctl(lab, node, "kill etcd", code=1)
        assert "run: etcd: (pid" in ctl(lab, node, "once etcd")
        ctl(lab, node, "term etcd")
        lab.exec(node, "sleep 3")
        assert pids(lab, node)["etcd"] == 0, "what runs once was started again"
        assert "run: etcd: (pid" in ctl(lab, node, "start etcd")
        before = pids(lab, node)
        assert "etcd restarted" in ctl(lab, node, "restart etcd")
        ctl(lab, node, "kill leaderl")
        ctl(lab, node, "hup postgresql")
        assert pids(lab, node)["postgresql"] == before["postgresql"]
        assert "postgresql restarted" in ctl(lab, node, "restart postgresql")
        after = pids(lab, node)
        changed = {name for name in before if before[name] != after[name]}
        assert changed >= {"etcd", "postgresql"} and "salt-minion" not in changed
        text = lab.exec(node, "timeout 5 chef-backend-ctl tail leaderl -n 5", 20)[1]
        assert "chefha-leaderl" in text or "follower" in text, text


def test_service_verbs_of_salt(lab: Lab, witness: Witness) -> None:
    """The same by Salt: plain data, and the lines of the logs."""
    witness.await_converged(CONVERGED)
    node = others(witness.leader())[1]
    with untouched(witness):
        assert salt(lab, node, "stop", "leaderl")["services"]["leaderl"]["state"] == "inactive"
        assert salt(lab, node, "stop", "postgresql")["services"]["postgresql"]["state"] == "inactive"
        # a follower's data starts as a follower, whoever starts it
        assert salt(lab, node, "start", "postgresql")["services"]["postgresql"]["state"] == "running"
        done = salt(lab, node, "start")
        assert {row["outcome"] for row in done["steps"]} == {"done"}
        assert done["services"]["leaderl"]["state"] == "running"
        assert salt(lab, node, "kill", "postgresql")["steps"][0]["step"].endswith("got SIGKILL")
        assert salt(lab, node, "service_list")["services"]["etcd"]["enabled"] == "enabled"
        lines = salt(lab, node, "tail", "leaderl", "lines=5")["journal"]
        assert len(lines) == 5 and any("leaderl" in line or "follower" in line for line in lines), lines


REFUSED = (
    ("stop", "postgresql", "this node leads"),
    ("kill", "postgresql", "this node leads"),
    ("restart", "postgresql", "this node leads"),
    ("term", "postgresql", "this node leads"),
    ("stop", "leaderl", "hand over first"),
    ("stop", "", "hand over first: chef-backend-ctl demote"),
    ("restart", "", "this node leads"),
    ("once", "postgresql", "leaderl keeps it running"),
    ("hup", "etcd", "would end at a hang-up"),
    ("start", "nginx", "no such service on this node; there are etcd, "),
)


def test_what_is_refused_on_the_leader_changes_nothing(lab: Lab, witness: Witness) -> None:
    """One sentence, code 1, and the same processes as before, by the shell and by Salt."""
    witness.await_converged(CONVERGED)
    leader = witness.leader()
    follower = others(leader)[0]
    with untouched(witness):
        before = pids(lab, leader)
        for verb, service, reason in REFUSED:
            said = ctl(lab, leader, f"{verb} {service}", code=1)
            assert reason in said and said.count("\n") == 1 and "Traceback" not in said, said
        for verb, service, reason in (*REFUSED[:1], *REFUSED[5:6], *REFUSED[-1:]):
            assert reason in str(salt(lab, leader, verb, service))
        assert "chef-backend-ctl restart salt-minion" in str(salt(lab, leader, "restart", "salt-minion"))
        assert "leads the cluster" in ctl(lab, leader, "cleanse --yes", code=1)
        assert "hand over first" in ctl(lab, leader, "uninstall --yes", code=1)
        assert pids(lab, leader) == before
        assert "is still a member" in ctl(lab, follower, "cleanse --yes", code=1)
        assert "remove-node" in str(salt(lab, follower, "cleanse", "yes=True"))
        assert "leaderl runs and would start it again" in ctl(lab, follower, "stop postgresql", code=1)


def test_a_stopped_cluster_elects_on_its_own_and_its_logs_can_be_gathered(lab: Lab, witness: Witness) -> None:
    """Followers stop, then the last one as it is; started again it has a leader and what was written."""
    witness.await_converged(CONVERGED)
    leader = witness.leader()
    sql(lab, leader, "drop table if exists stopped; create table stopped as select 7 as n")
    try:
        for node in others(leader):
            ctl(lab, node, "stop")
        witness.await_true(
            lambda: [] if lab.exec(leader, CTL + "stop", VERB)[0] == 0 else ["not stopped"],
            VERB,
            "stop of the last one",
        )
        services = json.loads(ctl(lab, leader, "status --simple --json"))["services"]
        running = {name for name, row in services.items() if row["pid"]}
        assert running == {"salt-minion"}
        assert "only leaderl may permit" in ctl(lab, leader, "start postgresql", code=1)
        gathered = json.loads(ctl(lab, leader, "gather-logs --json 2>/dev/null"))
        assert {"etcd/keys.json", "postgresql/replication.txt"} <= set(gathered["missing"])
        assert_no_secret(lab, leader, gathered["path"])
    finally:
        answers = lab.salt("be*", "chefha.start", timeout=VERB)
    assert set(answers) == {node.name for node in BACKENDS}
    witness.await_converged(ELECTED)
    assert sql(lab, witness.leader(), "select n from stopped").strip() == "7"
    if lab.stack.search != "none":
        witness.await_search(timeout=ELECTED)


def test_gathered_logs_have_what_helps_and_no_secret(lab: Lab, witness: Witness) -> None:
    """Readable by root only; status, configuration, etcd's keys and the journals are in it."""
    witness.await_converged(CONVERGED)
    node = witness.leader()
    done = salt(lab, node, "gather_logs")
    assert not done["missing"]
    names = lab.exec(node, f"tar tzf {done['path']}")[1]
    for part in (
        "cluster-status.json",
        "config.yaml",
        "etcd/keys.json",
        "journal/leaderl.log",
        "machine/addresses.txt",
    ):
        assert f"/{part}\n" in names
    assert_no_secret(lab, node, done["path"])


def assert_no_secret(lab: Lab, node: str, path: str) -> None:
    """The archive is root's alone, and has none of the cluster's secrets; afterwards it is gone."""
    assert lab.exec(node, f"stat -c '%a %U' {path}")[1].strip() == "600 root"
    secrets = secrets_of(lab)
    patterns = "/root/lab-patterns"
    lab.machines.write(
        next(one for one in BACKENDS if one.name == node), {patterns: "\n".join(secrets.values()) + "\n"}
    )
    found = lab.exec(node, f"tar xzOf {path} | grep -aoF -f {patterns} | sort | uniq -c; rm -f {patterns} {path}", 60)[
        1
    ]
    assert not found.strip(), [name for name, value in secrets.items() if value in found]


def test_reconfigure_applies_the_states_and_refuses_without_a_master(lab: Lab, witness: Witness) -> None:
    """A summary; in words where no master answers, and then nothing has begun."""
    witness.await_converged(CONVERGED)
    node = others(witness.leader())[0]
    changed = "/etc/chefha/postgresql/pg_ident.conf"
    with untouched(witness):
        lab.exec(node, f"echo '# by hand' >>{changed}")
        code, text = lab.exec(node, CTL + "reconfigure --json 2>/dev/null", APPLY_TIMEOUT)
        assert code == 0 and set(json.loads(text)["changed"]) == {"chefha_postgresql"}, text
        assert salt(lab, node, "reconfigure", timeout=APPLY_TIMEOUT)["changed"] == {}
        conf = "/etc/salt/minion.d/zz-lab-nobody.conf"
        lab.exec(node, f"echo 'master: 127.0.0.1' >{conf}; echo '# by hand' >>{changed}")
        try:
            said = ctl(lab, node, "reconfigure", code=1)
        finally:
            lab.exec(node, f"rm -f {conf}; sed -i '/# by hand/d' {changed}")
        assert "no master answers (127.0.0.1: " in said and "nothing was changed" in said


def test_an_uninstalled_node_and_a_cleansed_one_come_back_by_highstate(lab: Lab, witness: Witness) -> None:
    """Uninstalled, it keeps its data; removed and cleansed, it has none, and joins as a new one."""
    witness.await_converged(CONVERGED)
    leader = witness.leader()
    node = others(leader)[0]
    system_id = "cat /var/lib/chefha/postgresql/data/PG_VERSION"
    assert "no terminal to ask at" in ctl(lab, node, "uninstall </dev/null", code=1)
    ctl(lab, node, "uninstall --yes")
    assert lab.exec(node, system_id)[0] == 0, "uninstall deletes no data"
    assert lab.exec(node, "ls /etc/systemd/system/chefha-*; nft list table inet chefha")[1].count("No such") == 2
    apply(lab, node)
    witness.await_converged(CONVERGED)
    ctl(lab, node, "stop")
    assert f"remove-node {node}" in ctl(lab, node, "cleanse --yes", code=1)
    removed: dict[str, Any] = {}

    def struck_off() -> bool:
        removed.update(lab.salt_run("chefha.remove_node", CLUSTER, node, timeout=VERB))
        return removed.get("removed") == node

    assert poll(struck_off, VERB) and removed["asked_on"] != node, removed
    saved = json.loads(ctl(lab, node, "cleanse --yes --json 2>/dev/null"))["saved"]
    assert lab.exec(node, f"stat -c %a {saved}; ls {saved}/etc-chefha/settings.json")[1].split()[0] == "700"
    left = "ls -d /etc/chefha /var/lib/chefha/postgresql/data /var/lib/chefha/etcd /var/lib/chefha/search 2>/dev/null"
    assert not lab.exec(node, left)[1].strip()
    assert "in no cluster yet" in ctl(lab, node, "status", code=1)
    apply(lab, node)
    witness.await_converged(CONVERGED)
    again = lab.salt(node, "state.apply", timeout=APPLY_TIMEOUT)[node]
    assert not did_change(again), did_change(again)
    lab.exec(node, f"rm -rf {saved}")
