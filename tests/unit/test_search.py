"""Search: how an engine starts, what leaderl and the verbs make of its answers."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.unit.search_pillar import settings

from chefha_core import search_engine, search_start
from chefha_core.leaderl.memory import Memory
from chefha_core.leaderl.search_monitor import SearchMonitor
from chefha_core.model import MemberReport, PgFacts, PgState, Position
from chefha_core.observe import observe
from chefha_core.parts.address import Address
from chefha_core.parts.etcd import EtcdClient, EtcdError
from chefha_core.parts.search import Nodes, SearchClient, SearchError, SearchHealth, SearchRefused
from chefha_core.parts.search_followers import ALL, BODY, SETTING, TEMPLATE, ensure_followers
from chefha_core.plan.handover import why_not_eligible
from chefha_core.search_engine import unpacked
from chefha_core.search_start import Found, environment, java_home, options
from chefha_core.verbs import cluster_status, member, status
from chefha_core.verbs.cluster_status import Answers, report

FOUND = Found("/opt/x/opensearch-1.3.20", "/usr/lib/jvm/java-21-openjdk-amd64", "", 262144, secured=False)


# ---- the start


def test_initial_masters_are_given_only_while_no_other_member_is_in_a_cluster() -> None:
    assert options(settings(), FOUND) == ["-Ecluster.initial_cluster_manager_nodes=be1,be2,be3"]
    assert options(settings(), Found(FOUND.home, "", "be3", 262144, secured=False)) == []


@pytest.mark.parametrize(
    ("flavor", "version", "name"),
    [
        ("opensearch", "1.3.20", "cluster.initial_master_nodes"),
        ("opensearch", "2.19.1", "cluster.initial_cluster_manager_nodes"),
        ("opensearch", "3.7.0", "cluster.initial_cluster_manager_nodes"),
        ("elasticsearch", "7.17.9", "cluster.initial_master_nodes"),
    ],
)
def test_each_engine_has_its_own_name_for_the_initial_masters(flavor: str, version: str, name: str) -> None:
    (option,) = options(settings(flavor, version=version), FOUND)
    assert option == f"-E{name}=be1,be2,be3"


@pytest.mark.parametrize(
    ("flavor", "option"),
    [("opensearch", "-Eplugins.security.disabled=true"), ("elasticsearch", "-Expack.security.enabled=false")],
)
def test_tls_and_users_are_switched_off_only_where_the_engine_has_them(flavor: str, option: str) -> None:
    assert options(settings(flavor), Found("/x", "", "be2", 262144, secured=True)) == [option]
    assert options(settings(flavor), Found("/x", "", "be2", 262144, secured=False)) == []


def test_memory_is_not_mapped_where_the_kernel_allows_too_few_maps_and_nobody_decided() -> None:
    low = Found("/x", "", "be2", 65530, secured=False)
    assert options(settings(), low) == ["-Enode.store.allow_mmap=false"]
    assert options(settings(parameters={"node.store.allow_mmap": True}), low) == []


def test_the_environment_of_the_unit_names_program_and_java() -> None:
    assert environment(settings(version="1.3.20"), FOUND).splitlines() == [
        "SEARCH_COMMAND=/opt/x/opensearch-1.3.20/bin/opensearch -Ecluster.initial_master_nodes=be1,be2,be3",
        "OPENSEARCH_JAVA_HOME=/usr/lib/jvm/java-21-openjdk-amd64",
    ]


def test_java_is_that_of_the_package(tmp_path: Path) -> None:
    for version in (17, 21):
        (tmp_path / f"java-{version}-openjdk-amd64").mkdir()
    assert java_home(settings().search, str(tmp_path)) == str(tmp_path / "java-21-openjdk-amd64")
    assert java_home(settings(java_package="zulu").search, str(tmp_path)) == "/usr"
    assert java_home(settings(java_package="").search, str(tmp_path)) == ""


def test_of_the_makers_java_options_only_heap_dumps_and_logs_are_left_out() -> None:
    text = """\
-Xms1g
8-10:-XX:+UseConcMarkSweepGC
11-:-XX:+UseG1GC
-XX:+HeapDumpOnOutOfMemoryError
-XX:HeapDumpPath=data
-XX:ErrorFile=logs/hs_err_pid%p.log
8:-XX:+PrintGCDetails
8:-Xloggc:logs/gc.log
9-:-Xlog:gc*,gc+age=trace,safepoint:file=logs/gc.log:utctime,pid,tags:filecount=32,filesize=64m
21-:-javaagent:agent/opensearch-agent.jar
"""
    assert search_start.java_options(text).splitlines() == [
        "8-10:-XX:+UseConcMarkSweepGC",
        "11-:-XX:+UseG1GC",
        "-XX:+HeapDumpOnOutOfMemoryError",
        "21-:-javaagent:agent/opensearch-agent.jar",
    ]


def test_a_start_writes_what_was_decided_and_the_makers_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search_engine, "UNPACKED", str(tmp_path))
    monkeypatch.setattr(search_start, "CONFIG", str(tmp_path))
    half = tmp_path / "opensearch.keystore.tmp"
    half.touch()
    monkeypatch.setattr(search_start, "START", str(tmp_path / "run/search.env"))
    monkeypatch.setattr(search_start, "START_JAVA", str(tmp_path / "run/search.jvm.options"))
    here = settings(members={"be1": "127.0.0.1", "be2": "127.0.0.2", "be3": "127.0.0.3"}, port=1)
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(here.to_dict()), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["search_start", "--settings", str(file), "--name", "be1"])
    assert search_start.main() == 2
    assert "brought 0 programs" in capsys.readouterr().err
    home = Path(unpacked(here.search), "opensearch-3.7.0")
    for name, text in (("bin/opensearch", ""), ("config/jvm.options", "-Xmx1g\n-Da=b\n")):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(text, encoding="utf-8")
    assert search_start.main() == 0
    started = (tmp_path / "run/search.env").read_text(encoding="utf-8")
    assert started.startswith(f"SEARCH_COMMAND={home}/bin/opensearch -Ecluster.initial_cluster_manager_nodes=be1,")
    assert (tmp_path / "run/search.jvm.options").read_text(encoding="utf-8") == "-Da=b\n"
    assert (tmp_path / "run/search.jvm.options").stat().st_mode & 0o777 == 0o644
    assert not half.exists()


def test_a_start_without_a_flavor_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings("none").to_dict()), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["search_start", "--settings", str(file), "--name", "be1"])
    assert search_start.main() == 2
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("pillar chefha:search:flavor is none") and "apply this node's states" in said


# ---- the engine's HTTP, from a small server that answers as the engines do


class Engine(BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, tuple[int, Any]]] = {}
    put: ClassVar[list[tuple[str, Any]]] = []

    def do_GET(self) -> None:
        code, body = self.answers.get(self.path.split("?")[0], (404, {"error": "no such index"}))
        self._send(code, body)

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.put.append((self.path, body))
        self._send(403 if "kept" in self.path else 200, {"acknowledged": True})

    def _send(self, code: int, body: Any) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


NODES = {"master_node": "n2", "nodes": {"n1": {"name": "be1"}, "n2": {"name": "be2"}}}
STATE = "/_cluster/state/master_node,nodes"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setenv("http_proxy", "http://192.0.2.99:3128")
    Engine.answers, Engine.put = {STATE: (200, NODES)}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_node_says_who_is_there_and_how_well_it_is(port: int) -> None:
    Engine.answers |= {
        "/": (200, {"cluster_name": "chefha", "cluster_uuid": "_na_", "version": {"number": "1.3.20"}}),
        "/_cluster/health": (200, {"status": "green", "number_of_nodes": 2}),
    }
    client = SearchClient("127.0.0.1", port)
    assert client.nodes() == Nodes(("be1", "be2"), "be2")
    assert client.health() == SearchHealth("green", 2)
    assert client.root().formed is False and client.root().version == "1.3.20"


def test_health_without_a_master_is_no_health(port: int) -> None:
    Engine.answers |= {STATE: (200, {"nodes": {}}), "/_cluster/health": (200, {"status": "green"})}
    with pytest.raises(SearchError, match="sees no master"):
        SearchClient("127.0.0.1", port).health()


def test_trouble_is_one_sentence(port: int) -> None:
    client = SearchClient("127.0.0.1", port)
    Engine.answers |= {"/a": (503, {"error": {"type": "blocked", "reason": "no master"}}), "/b": (200, "<html>")}
    with pytest.raises(SearchRefused, match="refused with HTTP 503: blocked, no master"):
        client.get("/a")
    with pytest.raises(SearchError, match="and no JSON"):
        client.get("/b")
    with pytest.raises(SearchError, match=r"does not answer on 127.0.0.1:1: connection refused"):
        SearchClient("127.0.0.1", 1).root()


def test_only_a_member_of_this_very_cluster_counts_as_formed(port: int) -> None:
    here = {"be1": "127.0.0.1", "be2": "127.0.0.2", "be3": "127.0.0.3"}
    mine = settings(members=here, port=port)
    for name, uuid, formed in (("chefha", "abc", "be1"), ("chefha", "_na_", ""), ("another", "abc", "")):
        Engine.answers["/"] = (200, {"cluster_name": name, "cluster_uuid": uuid})
        assert search_start.formed_elsewhere(mine, "be2") == formed


def test_followers_follow_the_nodes_wherever_nobody_has_decided_otherwise(port: int) -> None:
    Engine.answers["/_all/_settings/index.auto_expand_replicas,index.uuid"] = (
        200,
        {
            "chef": {"settings": {"index.uuid": "1"}},
            "kept": {"settings": {"index.uuid": "2"}},
            "chosen": {"settings": {"index.uuid": "3", SETTING: "0-1"}},
            ".system": {"settings": {"index.uuid": "4"}},
        },
    )
    client = SearchClient("127.0.0.1", port)
    assert ensure_followers(client) == ["template", "chef"]
    assert Engine.put[0] == (TEMPLATE, BODY)
    assert ("/chef/_settings", {SETTING: ALL}) in Engine.put
    assert not any("chosen" in path or "system" in path for path, _ in Engine.put)
    Engine.answers[TEMPLATE] = (200, {"chefha-followers": {**BODY, "mappings": {}}})
    assert "template" not in ensure_followers(client)


def test_a_member_waits_for_a_majority_with_a_master(port: int) -> None:
    here = settings(members={"be1": "127.0.0.1", "be2": "127.0.0.2", "be3": "127.0.0.3"}, port=port)
    assert member.search_problem(here, "be1") == ""
    Engine.answers[STATE] = (200, {"master_node": "n1", "nodes": {"n1": {"name": "be1"}}})
    assert member.search_problem(here, "be1") == "search on be1 sees be1, and be1 as master"
    assert "does not answer" in member.search_problem(here, "be2")
    assert member.search_problem(settings("none"), "be1") == ""


# ---- leaderl's watch


class Asked(SearchClient):
    """A node that answers as told."""

    def __init__(self, master: str | None) -> None:
        self.master = master

    def nodes(self) -> Nodes:
        if self.master is None:
            raise SearchError("search does not answer")
        return Nodes(("be1", "be2"), self.master)


def test_search_is_offline_only_after_failures_in_a_row_and_each_change_is_told_once() -> None:
    told: list[str] = []
    asked = Asked(None)
    monitor = SearchMonitor(asked, asked, "be1", 2, lambda: told.append(monitor.state))

    def look(master: str | None) -> str:
        asked.master = master
        monitor.look()
        return monitor.state

    assert monitor.state == "offline"
    assert [look(master) for master in (None, "be1", "be1", None, "be2", None, "")] == [
        "offline", "master", "master", "master", "not_master", "not_master", "offline",
    ]  # fmt: skip
    assert told == ["master", "not_master", "offline"]
    assert monitor.problem == "search on this node sees no master"


def test_a_member_whose_search_is_offline_is_eligible_unless_that_is_fatal() -> None:
    follower = MemberReport("be2", "", PgState.STANDBY, "follower", Position(1, 9), streaming=True, search="offline")
    assert why_not_eligible(follower, "be2", 9, 0, search_fatal=False) == ""
    assert "search on be2 is offline" in why_not_eligible(follower, "be2", 9, 0, search_fatal=True)


class NoEtcd(EtcdClient):
    """Nobody answers."""

    def __init__(self) -> None:
        self.timeout = 1.0

    def range(self, key: str = "", timeout: float | None = None) -> Any:
        raise EtcdError("nobody answers")


class NoAddress(Address):
    """The virtual address is elsewhere."""

    def __init__(self) -> None:
        pass

    def present(self) -> bool:
        return False


def test_a_search_that_is_fatal_makes_the_node_unfit_beside_other_reasons() -> None:
    memory = Memory()

    def unfit() -> str:
        return observe("be1", NoEtcd(), NoAddress(), PgFacts(), memory, "", False, 3.0).unfit

    assert unfit() == ""
    memory.search_unfit = "its search is offline"
    assert unfit() == "its search is offline"
    memory.unfit, memory.unfit_until = "the disk is full", time.monotonic() + 9
    assert unfit() == "the disk is full"


# ---- the verbs


def test_cluster_status_has_a_column_for_search_only_where_there_is_search() -> None:
    live = {name: {"role": "follower", "search": word} for name, word in (("be1", "master"), ("be2", "not_master"))}
    data = report(settings(), Answers(live=live, search=SearchHealth("yellow", 2)))
    lines = cluster_status.table(data).splitlines()
    assert [line.split()[-1] for line in lines] == ["ES", "master", "not_master", "offline"]
    assert data["search"] == {"flavor": "opensearch", "status": "yellow", "nodes": 2}
    without = report(settings("none"), Answers())
    assert without["search"] is None and {row["search"] for row in without["members"]} == {None}
    assert "ES" not in cluster_status.table(without)


def test_status_names_the_engine_and_what_its_cluster_says() -> None:
    assert status.units_of(settings("elasticsearch"), "be1")["elasticsearch"] == "chefha-search.service"
    assert "opensearch" not in status.units_of(settings("none"), "be1")
    assert status.search_cell(SearchHealth("green", 3), 3) == "state: green; nodes online: 3/3"


def test_status_of_a_front_end_is_about_what_runs_there() -> None:
    with_front_end = dataclasses.replace(settings("none"), frontends={"fe1": "192.0.2.31"})
    answer = status.status(with_front_end, "fe1")
    assert {name: row["distributed"] for name, row in answer["services"].items()} == {"salt-minion": "-"}
    assert set(answer["disks"]) == status.FRONT_END_FOLDERS
