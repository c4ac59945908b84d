"""Search: what is laid out, how an engine starts, what leaderl and the verbs make of its answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from chefha_core import search_start
from chefha_core.checked import SettingsError
from chefha_core.layout import search_files
from chefha_core.layout.search import Machine, signed_by, wishes
from chefha_core.layout.wish import Wish
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
from chefha_core.settings import SECRETS_OF, Settings, from_pillar
from chefha_core.verbs import cluster_status, member, status
from chefha_core.verbs.cluster_status import Answers, report

MEMBERS = {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"}
SUM = "0123456789abcdef" * 4
ARCHIVE = {"archive": "https://192.0.2.50/opensearch.tar.gz", "checksum": f"sha256={SUM}"}
MACHINE = Machine(memory_mb=24000, raise_maps=False)
FOUND = Found("/opt/x/opensearch-1.3.20", "/usr/lib/jvm/java-21-openjdk-amd64", "", 262144, secured=False)


def settings(flavor: str = "opensearch", members: dict[str, str] = MEMBERS, **search: Any) -> Settings:
    source = {} if flavor == "none" else {"source": ARCHIVE}
    pillar = {
        "members": members,
        "vip": "192.0.2.100",
        "secrets": {name: "x" for name in SECRETS_OF["backend"]},
        "tls": {"enabled": False},
        "search": {"flavor": flavor, **source, **search},
    }
    return from_pillar(pillar)


def named(found: list[Wish], state: str) -> list[str]:
    return [wish.arguments["name"] for wish in found if wish.state == state]


def text_of(found: list[Wish], path: str) -> str:
    return next(str(wish.arguments["contents"]) for wish in found if wish.arguments["name"] == path)


# ---- the layout


def test_without_search_nothing_is_laid_out() -> None:
    assert wishes(settings("none"), "be1", MACHINE) == []


@pytest.mark.parametrize(
    ("flavor", "file", "program"),
    [
        ("opensearch", "opensearch.yml", "OPENSEARCH_PATH_CONF=/etc/chefha/search "),
        ("elasticsearch", "elasticsearch.yml", "ES_PATH_CONF=/etc/chefha/search "),
    ],
)
def test_an_archive_is_unpacked_once_and_runs_as_a_user_of_its_own(flavor: str, file: str, program: str) -> None:
    found = wishes(settings(flavor), "be2", MACHINE)
    (archive,) = (wish.arguments for wish in found if wish.state == "archive.extracted")
    assert archive["source_hash"] == ARCHIVE["checksum"]
    assert archive["if_missing"] == f"{archive['name']}/.complete"
    names = [wish.arguments["name"] for wish in found]
    assert names.index(archive["name"]) < names.index(archive["if_missing"]) < names.index("chefha-search.service")
    assert named(found, "user.present") == ["chefha-search"]
    config = yaml.safe_load(text_of(found, f"/etc/chefha/search/{file}"))
    assert config["network.host"] == "192.0.2.12" and config["http.bind_host"] == "0.0.0.0"
    assert config["discovery.seed_hosts"] == [f"{address}:9300" for address in MEMBERS.values()]
    assert not any("initial" in key for key in config)
    assert program in text_of(found, "/etc/systemd/system/chefha-search.service")
    assert found[-1].restart == "chefha-search.service"


def test_another_archive_goes_beside_the_one_that_runs() -> None:
    other = {**ARCHIVE, "checksum": f"sha256={SUM[::-1]}"}
    assert unpacked(settings().search) != unpacked(settings(source=other).search)


def test_a_package_comes_from_its_repository_and_its_own_service_never_starts() -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx"
    source = {"package": "opensearch", "repository": "deb https://192.0.2.50/apt stable main", "repository_key": key}
    found = wishes(settings(source=source), "be1", MACHINE)
    assert not named(found, "archive.extracted")
    order = [wish.arguments["name"] for wish in found]
    assert order.index("/etc/systemd/system/opensearch.service") < order.index("chefha-search-package")
    line = text_of(found, "/etc/apt/sources.list.d/chefha-search.list")
    assert line == "deb [signed-by=/etc/apt/keyrings/chefha-search.asc] https://192.0.2.50/apt stable main"
    assert "SupplementaryGroups=opensearch\n" in text_of(found, "/etc/systemd/system/chefha-search.service")


@pytest.mark.parametrize(
    ("line", "signed"),
    [
        ("deb [arch=amd64] https://x a", "deb [arch=amd64 signed-by=/k] https://x a"),
        ("deb [signed-by=/own] https://x a", "deb [signed-by=/own] https://x a"),
    ],
)
def test_the_options_of_a_repository_line_are_kept(line: str, signed: str) -> None:
    assert signed_by(line, "/k") == signed


@pytest.mark.parametrize(("memory", "heap"), [(24000, 8000), (200_000, 31 * 1024), (200, 128)])
def test_the_heap_is_a_third_of_the_memory_within_limits(memory: int, heap: int) -> None:
    assert search_files.heap_mb(settings().search, memory) == heap


def test_more_heap_than_memory_is_refused() -> None:
    with pytest.raises(SettingsError, match="heap_mb is 30000 and this machine has 24000 MiB"):
        wishes(settings(heap_mb=30000), "be1", MACHINE)


def test_map_count_is_raised_only_where_that_is_possible() -> None:
    assert not named(wishes(settings(), "be1", MACHINE), "sysctl.present")
    assert named(wishes(settings(), "be1", Machine(24000, raise_maps=True)), "sysctl.present") == ["vm.max_map_count"]


def test_a_java_of_ones_own_is_named_in_the_unit_and_no_package_is_installed() -> None:
    found = wishes(settings(java_home="/opt/java"), "be1", MACHINE)
    assert " OPENSEARCH_JAVA_HOME=/opt/java\n" in text_of(found, "/etc/systemd/system/chefha-search.service")
    assert not named(found, "pkg.installed")


# ---- the pillar


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ({"source": {}}, "chefha:search:source is missing although chefha:search:flavor is opensearch"),
        ({"source": {**ARCHIVE, "package": "opensearch"}}, "has both archive and package"),
        ({"source": {"archive": "opensearch.tar.gz"}}, "source:archive is 'opensearch.tar.gz'; expected"),
        ({"source": {"archive": "/srv/opensearch.rpm"}}, "expected a .tar.gz, .tgz or .zip"),
        ({"source": {"archive": ARCHIVE["archive"]}}, "source:checksum is missing"),
        ({"source": {**ARCHIVE, "checksum": "sha256=12"}}, "64 hexadecimal digits"),
        ({"source": {**ARCHIVE, "checksum": SUM}}, "64 hexadecimal digits"),
        ({"source": {"package": "open search"}}, "expected the name of a Debian package"),
        ({"source": {"package": "opensearch", "repository": "https://x"}}, "expected a line such as deb"),
        ({"source": {"package": "opensearch", "repository_key": "x"}}, "no armoured OpenPGP key"),
        ({"version": "newest"}, "expected a version such as 1.3.20"),
        ({"java_home": "java"}, "java_home is 'java'"),
        ({"java_opts": ["-Xmx4g"]}, "set chefha:search:heap_mb instead"),
        ({"java_opts": ["Dx=1"]}, "each beginning with '-'"),
        ({"parameters": {"cluster.name": "x"}}, "set chefha:cluster instead"),
        ({"parameters": {"discovery.type": "single-node"}}, "which the cluster rests on"),
        ({"parameters": {"network.host": "0.0.0.0"}}, "which the cluster rests on"),
        ({"parameters": {"cluster.initial_master_nodes": ["be1"]}}, "which the cluster rests on"),
        ({"parameters": {"indices.x": {"a": 1}}}, "expected a text, number or boolean"),
    ],
)
def test_a_wrong_pillar_is_refused_in_one_sentence(search: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(**search)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("archive", ["/srv/es.zip", "salt://chefha/files/os.tar.gz"])
def test_what_is_on_the_file_server_or_the_member_needs_no_checksum(archive: str) -> None:
    assert settings(source={"archive": archive}).search.source.archive == archive


def test_parameters_stand_in_the_configuration() -> None:
    text = search_files.config_text(settings(parameters={"action.auto_create_index": False, "x.list": ["a", 1]}), "be1")
    assert yaml.safe_load(text)["action.auto_create_index"] is False
    assert yaml.safe_load(text)["x.list"] == ["a", 1]


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
    assert member.search_problem(here, "be1") == "search on this node sees be1, and be1 as master"
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
        return observe("be1", NoEtcd(), NoAddress(), PgFacts(), memory, "", False, True, 3.0).unfit

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
    assert status.units_of(settings("elasticsearch"))["elasticsearch"] == "chefha-search.service"
    assert "opensearch" not in status.units_of(settings("none"))
    assert status.search_cell(SearchHealth("green", 3), 3) == "state: green; nodes online: 3/3"
