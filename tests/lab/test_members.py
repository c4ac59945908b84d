"""Members that are lost, removed and replaced, and a cluster that nobody leads: the way back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from lab.api import Lab
from lab.deploy import PILLAR, PYTHON, SOURCE, WHEELS
from lab.stack import CLUSTER
from lab.topology import BACKENDS, BY_NAME, MASTER, VIP
from lab.witness import Witness, others
from tests.lab.bring_up import APPLY_TIMEOUT, did_change, failed
from tests.lab.postgresql import hanging, sql
from tests.lab.story import leader_of, poll

WHOLE = 120.0
JOINED = 240.0
VERB_TIMEOUT = 150.0
SEARCH = f"curl -sf -m 10 http://{VIP}:9200"
VOTELESS = f"{SEARCH}/_cluster/state/metadata?filter_path=**.voting_config_exclusions.node_name"
#: the shell command before the states have brought it
CTL = f"{PYTHON} -m chefha_core.cli"
MASTERLESS = "/etc/salt/minion.d/zz-lab-masterless.conf"
MASTERLESS_CONF = f"""\
file_client: local
file_roots: {{base: [{SOURCE}/salt]}}
pillar_roots: {{base: [{PILLAR}]}}
"""


@pytest.fixture(autouse=True)
def _whole_before_and_after(lab: Lab, witness: Witness) -> Any:
    witness.await_converged(WHOLE)
    yield
    lab.heal_all()
    witness.await_converged(JOINED)


def ctl(lab: Lab, node: str, *words: str) -> tuple[int, str]:
    """A verb of the shell; its exit code and what it printed."""
    return lab.exec(node, ["chef-backend-ctl", *words], VERB_TIMEOUT)


def done(lab: Lab, node: str, *words: str) -> dict[str, Any]:
    """A verb that must succeed; its answer."""
    code, text = ctl(lab, node, *words, "--json")
    assert code == 0, text
    answer: dict[str, Any] = json.loads(text[text.index("{\n") : text.rindex("}") + 1])
    return answer


def refused(lab: Lab, node: str, *words: str) -> str:
    """A verb that must be refused in one sentence; that sentence."""
    code, text = ctl(lab, node, *words)
    assert code == 1 and "Traceback" not in text, text
    return text


def apply(lab: Lab, *nodes: str) -> None:
    """The highstate of these machines."""
    answers = lab.salt("-L", ",".join(nodes), "state.apply", timeout=APPLY_TIMEOUT)
    for node in nodes:
        assert not failed(answers.get(node)), failed(answers.get(node))


def with_chefha(lab: Lab, node: str) -> None:
    """A bare machine gets chefha into its Salt, and nothing else."""
    wheel = lab.exec(MASTER.name, f"ls {WHEELS}")[1].strip()
    lab.salt(node, "cp.get_file", f"salt://chefha/minion/files/{wheel}", f"/root/{wheel}")
    install = [PYTHON, "-m", "pip", "install", "-q", "--no-index", "--no-deps", f"/root/{wheel}"]
    code, text = lab.exec(node, install, 120)
    assert code == 0, text


def by_verb(lab: Lab, node: str, peer: str, options: str = "") -> str:
    """join-cluster on a bare machine, called in /root; what it said."""
    with_chefha(lab, node)
    code, text = lab.exec(node, f"cd /root && {CTL} join-cluster {peer} {options} 2>&1", JOINED)
    assert code == 0, text
    return text


def row(lab: Lab, asked_on: str, name: str) -> dict[str, Any]:
    """A member's row of cluster_status, through Salt."""
    status = lab.salt(asked_on, "chefha.cluster_status")[asked_on]
    return next(one for one in status["members"] if one["name"] == name)


def test_f14_f59_two_of_three_are_lost_for_good(lab: Lab, witness: Witness) -> None:
    """The one that is left goes on alone with its data and takes writes; the others join it on empty machines, one by
    its states and one by the verb, and from then on a commit is on two nodes again."""
    leader = witness.leader()
    survivor, other = others(leader)
    assert "etcd has a quorum" in refused(lab, survivor, "bootstrap", "--quorum-loss-recovery", "-y")
    sql(lab, leader, "drop table if exists kept")
    sql(lab, leader, "create table kept as select generate_series(1, 1000) n")
    poll(lambda: sql(lab, survivor, "select count(*) from pg_class where relname = 'kept'") == "1", 30)
    for lost in (leader, other):
        lab.fault("kill-host", lost)
    try:
        assert "bootstrap --quorum-loss-recovery" in refused(lab, survivor, "force-leader", "-y")
        assert "give --yes" in refused(lab, survivor, "bootstrap", "--quorum-loss-recovery")
        answer = done(lab, survivor, "bootstrap", "--quorum-loss-recovery", "-y")
        assert [step["outcome"] for step in answer["steps"]] == ["done"] * 5
        assert answer["search"] in ("there is none", "green", "yellow", "red"), answer["search"]
        assert answer["last_known"][leader] != "unknown", answer
        assert witness.leader() == survivor
        assert sql(lab, survivor, "insert into kept values (1001); select count(*) from kept").endswith("1001")
        assert done(lab, survivor, "cluster-status")["alone"] == survivor
    finally:
        lab.replace(leader, other)
    with ThreadPoolExecutor(1) as pool:
        by_states = pool.submit(apply, lab, leader)
        joined = by_verb(lab, other, BY_NAME[survivor].address)
        by_states.result()
    assert f"{other} is follower" in joined
    witness.await_converged(JOINED)
    status = done(lab, survivor, "cluster-status")
    assert (status["alone"], status["voters"]) == (None, sorted(node.name for node in BACKENDS))
    assert "ANY 1" in sql(lab, survivor, "show synchronous_standby_names")
    assert sql(lab, witness.leader(), "select count(*) from kept; drop table kept").startswith("1001")


def search_goes_on_without(lab: Lab, victim: str) -> None:
    """It takes documents through the VIP, and has no vote left for the one that was removed."""
    write = f"{SEARCH}/removed/_doc/1?refresh -X PUT -H 'Content-Type: application/json' -d '{{}}'"
    for command, wanted in ((write, "created"), (VOTELESS, victim), (f"{SEARCH}/removed -X DELETE", "true")):
        code, said = lab.exec("client", command, 20)
        assert code == 0 and wanted in said, (command, said)


@pytest.mark.everywhere
def test_f59_removing_a_dead_node_keeps_the_search_quorum_and_another_takes_its_name(
    lab: Lab, witness: Witness
) -> None:
    """Nothing is kept for it, and the machine that takes its place is a member like any other."""
    leader = witness.leader()
    asked_on, victim = others(leader)
    assert "no such member" in refused(lab, asked_on, "remove-node", "be9", "-y")
    assert "that is this node" in refused(lab, asked_on, "remove-node", asked_on, "-y")
    assert "still running" in lab.salt(asked_on, "chefha.remove_node", victim)[asked_on]
    lab.fault("kill-host", victim)
    try:
        answer = lab.salt(asked_on, "chefha.remove_node", victim, timeout=VERB_TIMEOUT)[asked_on]
        assert isinstance(answer, dict) and answer["removed"] == victim, answer
        slots = f"select count(*) from pg_replication_slots where slot_name = 'chefha_{victim}'"
        assert sql(lab, leader, slots) == "0"
        found = row(lab, asked_on, victim)
        assert (found["role"], found["guid"]) == ("removed", "-"), found
        if lab.stack.search != "none":
            search_goes_on_without(lab, victim)
    finally:
        lab.replace(victim)
    apply(lab, victim)
    witness.await_converged(JOINED)
    found = row(lab, asked_on, victim)
    assert found["role"] == "follower" and found["guid"] != "-", found
    assert sql(lab, witness.leader(), slots) == "1"
    if lab.stack.search != "none":
        assert poll(lambda: victim not in lab.exec("client", VOTELESS, 20)[1], 60), "its search node has no vote again"


def test_f59_a_removed_node_that_is_switched_on_again_waits_to_be_let_in(lab: Lab, witness: Witness) -> None:
    """With its old data it neither leads nor follows; join_cluster recovery=True makes it a member again."""
    leader = witness.leader()
    victim = others(leader)[0]
    assert "etcd knows this cluster already" in refused(lab, victim, "bootstrap", "-y")
    assert "is a member already" in refused(lab, victim, "join-cluster", leader)
    lab.fault("kill-host", victim)
    done(lab, leader, "remove-node", victim, "-y")
    lab.heal(victim)
    assert poll(lambda: row(lab, leader, victim)["role"] == "removed", 30)
    assert poll(lambda: roles(witness)[victim] == "removed", 60), roles(witness)
    answer = lab.salt(victim, "chefha.join_cluster", leader, "recovery=True", timeout=JOINED)[victim]
    assert isinstance(answer, dict), answer
    assert answer["role"] == "follower" and len(answer["kept_aside"]) == 1, answer
    witness.await_converged(WHOLE)


def test_f43_a_follower_whose_log_is_gone_follows_again_by_itself(lab: Lab, witness: Witness) -> None:
    """It is down while the leader loses its slot and recycles the log; nobody has to do anything."""
    leader = witness.leader()
    victim = others(leader)[0]
    lab.fault("kill-host", victim)
    sql(lab, leader, "alter system set wal_keep_size = 0")
    sql(lab, leader, "select pg_reload_conf()")
    for _ in range(4):
        sql(lab, leader, f"select pg_drop_replication_slot('chefha_{victim}')")
        sql(lab, leader, "select pg_logical_emit_message(false, 'lab', repeat('x', 20000000)), pg_switch_wal()")
        sql(lab, leader, "checkpoint", 60)
        assert poll(lambda: sql(lab, leader, "select count(*) from pg_replication_slots") == "2", 30)
    sql(lab, leader, "alter system reset wal_keep_size")
    sql(lab, leader, "select pg_reload_conf()")
    lab.heal(victim)
    witness.await_converged(JOINED)


def laid_out_without_a_master(lab: Lab, node: str) -> None:
    """What a machine has whose Salt asks no master: states and pillar of its own. The pillar has no secrets."""
    lab.machines.write(BY_NAME[node], {MASTERLESS: MASTERLESS_CONF})
    for tree in (SOURCE, PILLAR):
        stream, _ = lab.machines.get(MASTER).get_archive(tree)
        lab.machines.put_tar(BY_NAME[node], "/srv", b"".join(stream))


def test_a_bare_machine_joins_by_the_verb_with_secrets_that_it_brings_along(lab: Lab, witness: Witness) -> None:
    """With chefha in its Salt, no master, and a file of show-config --secrets: refused as long as something is wrong,
    and nothing is left; then the verb applies the states and ends when it follows. A master would change nothing."""
    leader = witness.leader()
    victim = others(leader)[0]
    code, text = ctl(lab, victim, "show-config", "--secrets", "/root/brought.json")
    assert code == 0, text
    brought = lab.exec(victim, "cat /root/brought.json")[1]
    lab.replace(victim)
    with_chefha(lab, victim)
    lab.machines.write(BY_NAME[victim], {"/root/brought.json": brought}, mode=0o600)
    joining_is_refused(lab, leader, victim)
    laid_out_without_a_master(lab, victim)
    peer = BY_NAME[leader].address
    code, text = lab.exec(victim, f"{CTL} join-cluster {peer} 2>&1", 60)
    assert code == 1 and "secrets" in text and "Traceback" not in text, f"it has none: {text}"
    code, text = lab.exec(victim, f"cd /root && {CTL} join-cluster {peer} -s brought.json 2>&1", JOINED)
    assert code == 0 and f"{victim} is follower" in text, text
    code, text = lab.exec(victim, "cat /etc/chefha/node.json")
    assert json.loads(text)["secrets"] == json.loads(brought)["chefha"]["secrets"], "they are not what it brought"
    lab.exec(victim, f"rm -r /root/brought.json /etc/chefha/node.json {MASTERLESS} {SOURCE} {PILLAR}")
    witness.await_converged(WHOLE)
    answer = lab.salt(victim, "state.apply", timeout=APPLY_TIMEOUT)[victim]
    assert not failed(answer) and not did_change(answer), answer


def joining_is_refused(lab: Lab, leader: str, victim: str) -> None:
    """By a bare machine, each time in a sentence of its own, and nothing is left."""
    peer, secrets = BY_NAME[leader].address, "/root/secrets.json"
    taken = BY_NAME[next(name for name in others(leader) if name != victim)].address
    lab.exec(victim, f"echo '{{}}' > {secrets}; chmod 644 {secrets}; echo '{{' > /root/bad; chmod 600 /root/bad")
    lab.exec(victim, f"ip address add {taken}/32 dev lo")
    for words, expected in (
        ("cluster-status", "this node is in no cluster yet"),
        (f"join-cluster {peer} -i nic7", "there is no interface nic7"),
        (f"join-cluster {peer} -p 192.0.2.9", "is on no interface"),
        (f"join-cluster {peer} -p {taken}", f"the address {taken} is registered already"),
        (f"join-cluster {peer} --recovery -y", "nothing is installed here"),
        (f"join-cluster {peer} -s none", "/none is missing"),
        (f"join-cluster {peer} -s {secrets}", "can be read by others"),
        (f"join-cluster {peer} -s /root/bad", "cannot be read"),
        ("join-cluster 192.0.2.9", "is no other member of the cluster"),
    ):
        code, text = lab.exec(victim, f"{CTL} {words} 2>&1", 60)
        assert code == 1 and expected in text and "Traceback" not in text, f"{words}: {text}"
    assert lab.exec(victim, "ls /etc/chefha")[0] != 0, "a refusal left something"
    lab.exec(victim, f"ip address del {taken}/32 dev lo")
    there, another = "/etc/chefha/node.json", """echo '{"secrets": {"token": "%s"}}' > %s; chmod 600 %s"""
    lab.exec(victim, "mkdir /etc/chefha; " + another % ("old", there, there))
    lab.exec(victim, another % ("new", "/root/other", "/root/other"))
    code, text = lab.exec(victim, f"{CTL} join-cluster {peer} -s /root/other 2>&1", 60)
    assert code == 1 and "other secrets here already" in text and there in text, text
    assert "old" in lab.exec(victim, f"cat {there}; rm -r /etc/chefha")[1]


def roles(witness: Witness) -> dict[str, str]:
    """What each member's leaderl says that it is."""
    return {seen.name: seen.role for seen in witness.look()}


def test_f58_a_leader_by_force_where_nobody_leads(lab: Lab, witness: Witness) -> None:
    """Failover is off and the leader's machine is lost: nobody is elected, and the one of the others that has more is
    made the leader by hand, which the runner finds out."""
    leader = witness.leader()
    one = others(leader)[0]
    assert f"{leader} is the leader" in lab.salt(one, "chefha.force_leader", timeout=VERB_TIMEOUT)[one]
    with nobody_leads(lab, leader):
        answer = lab.salt_run("chefha.force_leader", CLUSTER, timeout=VERB_TIMEOUT)
        assert answer.get("leader") == answer.get("asked_on") in others(leader), answer
        assert leader_of(witness.look()) == answer["leader"]
    witness.await_converged(WHOLE)


def test_f58_older_data_lead_by_force_only_where_their_loss_is_accepted(lab: Lab, witness: Witness) -> None:
    """One follower lacks the last commits. It is refused while the other one has them, and nothing changes; with
    --accept-data-loss it leads, and the other two come to what it has."""
    leader = witness.leader()
    old = others(leader)[0]
    far_ahead = "select pg_logical_emit_message(false, 'lab', repeat('x', 1 << 20)) from generate_series(1, 40)"
    sql(lab, leader, "drop table if exists late; create table late (n int)")
    assert poll(lambda: sql(lab, old, "select to_regclass('late') is not null") == "t", 30)
    with ExitStack() as cut_off:
        cut_off.enter_context(hanging(lab, old, "walreceiver"))
        sql(lab, leader, far_ahead)  # more than any buffer on the way holds
        sql(lab, leader, "insert into late values (1)")
        with nobody_leads(lab, leader):
            cut_off.close()
            said = refused(lab, old, "force-leader", "-y")
            assert f"the data of {old} are older than another member's" in said and "--accept-data-loss" in said, said
            assert not [seen.name for seen in witness.look() if seen.writable], "somebody leads"
            assert done(lab, old, "force-leader", "-y", "--accept-data-loss")["leader"] == old
            assert leader_of(witness.look()) == old
            assert sql(lab, old, "select count(*) from late") == "0"
    witness.await_converged(WHOLE)
    assert [sql(lab, node.name, "select count(*) from late") for node in BACKENDS] == ["0"] * 3
    sql(lab, old, "drop table late")


@contextmanager
def nobody_leads(lab: Lab, leader: str) -> Iterator[None]:
    """Failover is off meanwhile, and the leader's machine without power."""
    asked_on = others(leader)[0]
    done(lab, asked_on, "set-cluster-failover", "off")
    try:
        lab.fault("kill-host", leader)
        yield
    finally:
        done(lab, asked_on, "set-cluster-failover", "on")
        lab.heal(leader)
