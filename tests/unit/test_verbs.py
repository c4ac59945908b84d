"""Verbs as pure functions of what etcd and leaderl said: rows, tables, refusals, the watcher's causes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from chefha_core import cli, leader_watch
from chefha_core.checked import SettingsError
from chefha_core.layout import etcd, leaderl
from chefha_core.layout.catalogue import LAYOUTS, layout
from chefha_core.leader_watch import Key, cause, key_of
from chefha_core.model import (
    ClusterConfig,
    EtcdView,
    Intent,
    LeaderKey,
    LeaderState,
    MemberReport,
    PgState,
    Position,
    SyncRule,
)  # fmt: skip
from chefha_core.parts.etcd import EtcdMember
from chefha_core.settings import SECRETS_OF, from_pillar
from chefha_core.verbs import cluster_status, config, handover, status, switches
from chefha_core.verbs.cluster_status import Answers, report
from chefha_core.verbs.reach import VerbError

MEMBERS = {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"}
SECRETS = {name: f"s3cret-{name}" for name in SECRETS_OF["backend"]}
PILLAR: dict[str, Any] = {"members": MEMBERS, "vip": "192.0.2.100", "secrets": SECRETS, "tls": {"enabled": False}}
SETTINGS = from_pillar(PILLAR)


def member(name: str, pg: PgState, role: str, lsn: int, **more: Any) -> MemberReport:
    return MemberReport(name, MEMBERS[name], pg, role, Position(3, lsn), **more)


def view(**changes: Any) -> EtcdView:
    """A healthy cluster led by be1, changed."""
    members = {
        "be1": member("be1", PgState.PRIMARY, "leader", 1000),
        "be2": member("be2", PgState.STANDBY, "follower", 900, streaming=True),
        "be3": member("be3", PgState.STANDBY, "follower", 1000, streaming=True),
    }
    good = EtcdView(
        revision=9,
        leader=LeaderKey("be1", 7, LeaderState.LEADING, 3, 1000),
        members=members,
        config=ClusterConfig("7"),
        sync=SyncRule(("be1", "be2", "be3"), 1, 1),
    )
    return dataclasses.replace(good, **changes)


def with_be2(**changes: Any) -> EtcdView:
    members = dict(view().members)
    return view(members={**members, "be2": dataclasses.replace(members["be2"], **changes)})


def without_be2() -> EtcdView:
    return view(members={name: said for name, said in view().members.items() if name != "be2"})


@pytest.mark.parametrize(
    ("word", "on"), [("on", True), ("True", True), ("enabled", True), ("off", False), (False, False)]
)
def test_words_of_the_failover_switches(word: object, on: bool) -> None:
    assert switches.wanted("set-node-failover", word) is on


def test_another_word_for_a_failover_switch_is_refused() -> None:
    with pytest.raises(VerbError, match="the state is 'maybe'; expected one of on, true"):
        switches.wanted("set-node-failover", "maybe")


def test_cluster_status_of_a_healthy_cluster() -> None:
    live: dict[str, dict[str, Any]] = {name: {"role": "follower"} for name in MEMBERS}
    live["be1"] = {"role": "leader", "vip": True}
    etcd_members = tuple(EtcdMember(f"{i}f", name, (), ()) for i, name in enumerate(MEMBERS))
    data = report(SETTINGS, Answers(view(), etcd_members, live))
    assert (data["leader"], data["epoch"], data["vip"]["holder"], data["failover"]) == ("be1", 7, "be1", True)
    assert [row["lag_bytes"] for row in data["members"]] == [0, 100, 0]
    assert cluster_status.table(data).splitlines() == [
        "Name  IP          GUID  Role      PG",
        "be1   192.0.2.11  0f    leader    leader",
        "be2   192.0.2.12  1f    follower  follower",
        "be3   192.0.2.13  2f    follower  follower",
    ]
    assert cluster_status.table(data, wide=True).splitlines()[:3] == [
        "Name  IP          GUID  Role      PG        Follows  Lag  Eligible  Blocked",
        "be1   192.0.2.11  0f    leader    leader    -        0    -         no",
        "be2   192.0.2.12  1f    follower  follower  be1      100  yes       no",
    ]
    json.dumps(data)


def test_the_wide_form_says_who_cannot_take_over() -> None:
    data = report(SETTINGS, Answers(with_be2(failover=False), (), {}))
    assert data["members"][1]["why_not_eligible"] == "failover is switched off for be2"
    assert cluster_status.table(data, wide=True).splitlines()[2].split()[-2:] == ["no", "yes"]
    assert report(SETTINGS, Answers())["members"][0]["why_not_eligible"] == "etcd does not answer"


def test_f14_a_member_that_says_nothing_is_offline_and_says_so() -> None:
    row = report(SETTINGS, Answers(without_be2(), (), {}, {"be2": "timed out"}))["members"][1]
    assert (row["role"], row["pg"], row["guid"]) == ("-", "offline", "-")
    assert "says nothing" in row["reason"]


def test_f33_without_etcd_the_members_still_answer() -> None:
    data = report(SETTINGS, Answers(None, (), {"be1": {"role": "leader", "vip": True}}, {"etcd": "no quorum"}))
    assert (data["leader"], data["vip"]["holder"], data["problems"]) == (None, "be1", {"etcd": "no quorum"})
    assert data["members"][0]["role"] == "leader"


@pytest.mark.parametrize(
    ("state", "streaming", "word"),
    [
        (PgState.PRIMARY, False, "leader"),
        (PgState.STANDBY, True, "follower"),
        (PgState.STANDBY, False, "syncing"),
        (PgState.STARTING, False, "syncing"),
        (PgState.STOPPED, False, "offline"),
        (PgState.HUNG, True, "offline"),
        (PgState.EMPTY, False, "offline"),
    ],
)
def test_words_for_postgresql(state: PgState, streaming: bool, word: str) -> None:
    assert cluster_status.pg_word(state, streaming) == word


REFUSALS = {
    "unknown": ("be9", view(), "no such member"),
    "leader already": ("be1", view(), "leader already"),
    "no leader": ("be2", view(leader=None), "no leader"),
    "failover off": ("be2", view(config=ClusterConfig("7", failover=False)), "failover is off"),
    "failover off for it": ("be2", with_be2(failover=False), "failover is switched off for be2"),
    "dead": ("be2", without_be2(), "be2 has not reported lately"),
    "not streaming": ("be2", with_be2(streaming=False), "does not stream"),
    "not a standby": ("be2", with_be2(pg=PgState.STOPPED), "not a standby"),
    "behind": ("be2", with_be2(position=Position(3, 1000 - 52428801)), "max_bytes_behind_leader"),
    "still promoting": ("be2", view(leader=LeaderKey("be1", 7, LeaderState.PROMOTING, 3)), "be1 is promoting"),
    "under way": ("be2", view(intent=Intent("be3", "be1", 7, 5)), "under way already, asked for by be1"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_f51_promote_refuses_in_one_sentence(name: str) -> None:
    to, seen, words = REFUSALS[name]
    text = handover.promotion_refusal(SETTINGS, seen, to)
    assert words in text and text.startswith(f"promote {to}: ") and "\n" not in text


def test_f51_promote_of_a_healthy_follower_is_not_refused() -> None:
    assert handover.promotion_refusal(SETTINGS, view(), "be2") == ""
    assert handover.promotion_refusal(SETTINGS, view(intent=Intent("be3", "be1", 6, 5)), "be2") == "", "stale request"


def test_f51_demote_refuses_elsewhere_and_without_anybody_eligible() -> None:
    assert handover.demotion_refusal(SETTINGS, view(), "be1") == ""
    assert "is not the leader, be1 is" in handover.demotion_refusal(SETTINGS, view(), "be2")
    off = view(switched_off=frozenset({"be1"}))
    assert "failover is off for be1" in handover.demotion_refusal(SETTINGS, off, "be1")
    alone = view(members={"be1": view().members["be1"]})
    assert "nobody is eligible: be2 has not" in handover.demotion_refusal(SETTINGS, alone, "be1")


def test_status_table_and_simple_lines() -> None:
    text = "Id=chefha-etcd.service\nActiveState=active\nMainPID=6661\nStateChangeTimestampMonotonic=1000000\n\n"
    rows = status.parse_units(text, {"etcd": "chefha-etcd.service", "leaderl": "chefha-leaderl.service"}, 107984.0)
    data = {"services": rows, "disks": {}, "problems": {"wal_archive": "the log is not archived"}}
    assert status.simple_lines(data).splitlines() == ["run: etcd: (pid 6661) 107983s", "down: leaderl: 0s"]
    assert "etcd     running (pid 6661)  1d 5h 59m 43s" in status.table(data)
    assert status.table(data).endswith("\nproblem  wal_archive: the log is not archived")
    full = {"services": {
        "postgresql": {"state": "running", "pid": 6640, "seconds": 107983, "distributed": "leader: 1; offline: 0"},
        "opensearch": {"state": "inactive", "pid": 0, "seconds": 61, "distributed": "error: no answer"},
    }, "disks": {"/a": "1.0 GB free, 90% used", "/b": "error: hangs"}, "problems": {}}  # fmt: skip
    assert status.table(full).splitlines() == [
        "Service     Local Status        Time in State  Distributed Node Status",
        "postgresql  running (pid 6640)  1d 5h 59m 43s  leader: 1; offline: 0",
        "opensearch  inactive            1m 1s          error: no answer",
        "disks       /a: 1.0 GB free, 90% used; /b: error: hangs",
    ]


def test_status_cells() -> None:
    data = report(SETTINGS, Answers(view(), (), {}))
    assert status.postgresql_cell(data) == "leader: 1; offline: 0; syncing: 0; synced: 2"
    assert status.leaderl_cell(data) == "leader: 1; waiting: 0; follower: 2; total: 3"


def answered_and_ended(code: str, **environment: str) -> Any:
    """What a program of its own answers; it must end although something hangs."""
    command, seconds = [sys.executable, "-c", f"import json, time\n{code}"], 10
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=seconds, check=True)
    return json.loads(done.stdout)


def test_a_question_that_hangs_does_not_keep_the_program_from_ending() -> None:
    answers, problems = answered_and_ended("""
from chefha_core.verbs.cluster_status import gather
print(json.dumps(gather({"hangs": lambda: time.sleep(60), "answers": lambda: 7, "fails": lambda: 1 / 0}, 0.3)))
""")
    assert answers == {"answers": 7}
    assert problems == {"hangs": "no answer within 0.3 s", "fails": "division by zero"}


def test_a_disk_that_hangs_does_not_keep_status_from_ending(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid; exec sleep 60\n")
    (tmp_path / "stat").chmod(0o755)
    found = answered_and_ended("""
from chefha_core.verbs.status import rooms
print(json.dumps(rooms({"/data"}, 1.0)))
""", PATH=f"{tmp_path}:{os.environ['PATH']}")  # fmt: skip
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert found == {"/data": "error: no answer within 1 s"}


def test_room_of_a_folder_that_is_not_there_yet_is_that_of_the_one_above(tmp_path: Path) -> None:
    missing = str(tmp_path / "not" / "there")
    room = status.rooms({missing}, 5.0)[missing]
    assert re.fullmatch(r"[0-9.]+ GB free, \d+% used", room)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (61, "1m 1s"), (3600, "1h 0m 0s"), (107983, "1d 5h 59m 43s")])
def test_durations(seconds: int, text: str) -> None:
    assert status.duration(seconds) == text


CAUSES = [
    (None, Key("a", 1, "promoting"), "a is the first leader"),
    (Key("a", 1, "promoting"), Key("a", 1, "leading"), ""),
    (Key("a", 1, "leading"), Key("a", 1, "leading"), ""),
    (Key("a", 1, "leading"), Key("a", 1, "releasing"), ""),
    (Key("a", 1, "releasing"), Key("b", 2, "promoting"), "b leads by a planned hand-over from a"),
    (Key("a", 1, "releasing"), Key("a", 1, "leading"), "a goes on leading: the hand-over was given up"),
    (Key("a", 1, "leading"), Key("b", 2, "promoting"), "b leads in place of a"),
    (Key("a", 1, "leading"), None, "the leader key of a is gone"),
    (None, None, ""),
]


@pytest.mark.parametrize(("before", "now", "why"), CAUSES)
def test_only_changes_of_the_leader_are_events(before: Key | None, now: Key | None, why: str) -> None:
    assert cause(before, now) == why


@pytest.mark.parametrize("value", [None, "", "{", "[]", "7", '{"name": "a"}', '{"name": "a", "epoch": "x"}'])
def test_f38_a_key_that_chefha_did_not_write_is_no_leader(value: str | None) -> None:
    assert key_of(value) is None


def test_secrets_are_masked_and_yaml_reads_back() -> None:
    text = config.to_yaml({"chefha": config.shown(SETTINGS)})
    assert "s3cret" not in text
    assert yaml.safe_load(text)["chefha"]["members"] == MEMBERS


def test_gen_secrets_prints_a_pillar_that_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gen-secrets", *(f"{n}={a}" for n, a in MEMBERS.items()), "--vip", "192.0.2.100"]) == 0
    made = from_pillar(yaml.safe_load(capsys.readouterr().out)["chefha"])
    assert made.tls.enabled and made.members == MEMBERS


def test_cli_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["gen-secrets", "be1=192.0.2.11", "be2=192.0.2.12", "--vip", "192.0.2.100"]
    assert cli.main(arguments) == 1
    assert re.fullmatch(r"chef-backend-ctl: pillar chefha:members has 2 members.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("state", LAYOUTS)
def test_layouts_show_no_secret_but_in_files_that_hide_it(state: str) -> None:
    for wish in layout(state, PILLAR, "be1"):
        if "s3cret" in json.dumps(dict(wish.arguments)):
            assert wish.arguments["show_changes"] is False and wish.arguments["mode"] == "0600"


def test_layouts_refuse_a_wrong_pillar_and_a_stranger() -> None:
    with pytest.raises(SettingsError):
        layout("packages", {}, "be1")
    with pytest.raises(SettingsError):
        layout("packages", PILLAR, "be9")


def test_etcd_runs_on_the_members_only_where_no_other_is_given() -> None:
    assert yaml.safe_load(etcd.config_text(SETTINGS, "be2"))["name"] == "be2"
    foreign = {**PILLAR, "etcd_endpoints": ["http://192.0.2.50:2379"]}
    assert layout("etcd_member", foreign, "be1") == []
    assert not any("etcd" in str(wish.arguments.get("pkgs")) for wish in layout("packages", foreign, "be1"))


def test_leaderl_comes_from_the_python_of_the_library() -> None:
    text = leaderl.unit_text("be1", "/opt/py/bin/python3")
    assert "ExecStart=/opt/py/bin/python3 -m chefha_core.leaderl --name be1\n" in text


def test_f63_other_members_speak_only_if_the_new_leader_does_not_lead_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def fire(event: dict[str, Any]) -> bool:
        told.append(event)
        return True

    watcher = leader_watch.Watcher(SETTINGS, "be1", fire)
    watcher._changed(Key("be2", 1, "promoting"))
    assert not told and watcher._later
    watcher._changed(Key("be2", 1, "leading"))
    assert not told and not watcher._later, "it leads: the reaction has worked"
    watcher._changed(Key("be1", 2, "promoting"))
    assert [event["epoch"] for event in told] == [2], "of itself it tells at once"
    watcher._changed(None)
    assert told[-1]["leader"] == "" and told[-1]["state"] == "gone"


def test_f61_an_event_that_no_bus_took_is_kept_for_the_beacon() -> None:
    def refuse(event: dict[str, Any]) -> bool:
        raise OSError("no bus")

    watcher = leader_watch.Watcher(SETTINGS, "be1", refuse)
    watcher._changed(Key("be1", 1, "promoting"))
    assert [event["epoch"] for event in watcher.unsent] == [1]
