"""Front ends before a real PostgreSQL: log-ins without SCRAM, files on their way between two, Chef's stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from lab.inside import pgwire
from lab.standin import deb
from tests.functional.pg_cluster import MEMBERS, PASSWORD, SUPERUSER, Node, cluster, usable

from chefha_core.chef_server import chef_server_rb
from chefha_core.parts import frontend_files
from chefha_core.settings import Settings
from chefha_core.verbs import frontend, frontend_status
from chefha_core.verbs.cluster_status import table
from chefha_core.verbs.frontend import FrontEnd
from chefha_core.verbs.reach import VerbError

WHY_NOT = usable() or ("" if shutil.which("ruby") else "no ruby")
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-")

STANDIN = Path(__file__).resolve().parents[2] / "lab/standin/opscode/bin/chef-server-ctl"
FRONTENDS = {"fe1": "127.0.0.21", "fe2": "127.0.0.22"}


class Search(BaseHTTPRequestHandler):
    """As much of OpenSearch as a front end asks for before it starts."""

    indices: set[str]

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/": {"version": {"number": "1.3.20"}},
            "/_cluster/health": {"status": "green", "number_of_nodes": 2},
            frontend_status.NODES: [{"name": "be-1", "ip": "-", "master": "*"}, {"name": "be-2", "master": "-"}],
        }
        self._send(200, answers[self.path])

    def do_HEAD(self) -> None:
        self._send(200 if self.path in self.indices else 404, None)

    def do_PUT(self) -> None:
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert made["settings"]["number_of_shards"] == 5
        self.indices.add(self.path)
        self._send(200, {"acknowledged": True})

    def _send(self, status: int, answer: Any) -> None:
        body = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@dataclasses.dataclass
class Stage:
    """A back end of one PostgreSQL and one played search, and the indices that were made there."""

    node: Node
    indices: set[str]

    @property
    def settings(self) -> Settings:
        return self.node.settings

    def front_end(self, root: Path, name: str) -> FrontEnd:
        """A front end below a folder of its own: chef-server.rb in place, Chef's stand-in installed."""
        rb = root / "etc/opscode/chef-server.rb"
        rb.parent.mkdir(parents=True)
        rb.write_text(chef_server_rb(self.settings, name))
        ctl = root / "chef-server-ctl"
        ctl.write_text(f'#!/bin/sh\nCHEF_STANDIN_ROOT={root} CHEF_STANDIN_POSTGRESQL=17 exec ruby {STANDIN} "$@"\n')
        ctl.chmod(0o755)
        return FrontEnd(self.settings, name, root, ctl)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    handler = type("Handler", (Search,), {"indices": set()})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    more = {
        "frontends": FRONTENDS,
        "search": {"port": port, "source": {"package": "search-engine"}},
        "frontend": {"way": "members", "check_versions": False},
    }
    with cluster(tls=True, more=more) as made:
        node = made.first()
        # Chef's own HAProxy would lead to the members' ports; no pillar may change these two
        direct = {"opensearch['external_url']": f"http://127.0.0.1:{port}", "postgresql['port']": node.places.port}
        front = dataclasses.replace(node.settings.frontend, settings=direct)
        node.settings = dataclasses.replace(node.settings, frontend=front)
        yield Stage(node, handler.indices)
    server.shutdown()


def log_in(node: Node, user: str, password: str) -> list[list[str]]:
    """As a client that knows TLS and md5, and no SCRAM."""
    server = pgwire.Server(node.address, user, password, port=node.places.port)
    return asyncio.run(server.query("select current_user"))


def test_a_client_without_scram_logs_in_as_a_role_of_chefs_own(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(server: pgwire.Server) -> None:
        raise pgwire.ProtocolError("SCRAM? Never heard of it")

    monkeypatch.setattr(pgwire, "Scram", unknown)
    stage.node.sql("create role opscode_test login password 'geheim'")
    assert log_in(stage.node, "opscode_test", "geheim") == [["opscode_test"]]
    with pytest.raises(pgwire.PgError, match="28P01"):
        log_in(stage.node, "opscode_test", "wrong")
    with pytest.raises(pgwire.ProtocolError, match="SCRAM"):
        log_in(stage.node, SUPERUSER, PASSWORD)
    stored = dict(stage.node.sql("select rolname, left(rolpassword, 5) from pg_authid where rolpassword is not null"))
    assert stored.pop("opscode_test")[:3] == "md5"  # type: ignore[index]
    assert {SUPERUSER, "replicator"} <= set(stored) and set(stored.values()) == {"SCRAM"}
    stage.node.sql("drop role opscode_test")


def test_without_tls_nobody_logs_in(stage: Stage) -> None:
    with pytest.raises(psycopg2.OperationalError, match="no pg_hba"):
        psycopg2.connect(
            host=stage.node.address, port=stage.node.places.port, user=SUPERUSER, password=PASSWORD, sslmode="disable"
        )


def test_the_back_end_is_looked_at_before_chef_is(stage: Stage) -> None:
    assert frontend.backend_problem(stage.settings) == ""
    gone = dataclasses.replace(stage.settings, search=dataclasses.replace(stage.settings.search, port=1))
    assert "search of the back end does not answer: 127.0.0.1" in frontend.backend_problem(gone)
    wrong = dataclasses.replace(
        stage.settings, secrets=dataclasses.replace(stage.settings.secrets, superuser_password="x" * 8)
    )
    problem = frontend.backend_problem(wrong)
    assert "chef_pgsql" in problem and "password authentication failed" in problem and "x" * 8 not in problem


def test_two_front_ends_share_what_the_first_one_made(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole life: first run, second front end, a change on the first, a first one made anew."""
    first, second = stage.front_end(tmp_path / "1", "fe1"), stage.front_end(tmp_path / "2", "fe2")
    reconfigure: Callable[[FrontEnd], Any] = lambda front: frontend.reconfigure(front, 60)  # noqa: E731
    # nobody but the first may begin
    assert frontend.carry(first, 0) == {}
    with pytest.raises(VerbError, match="fe1, the first front end, has not published /etc/opscode/private-chef-sec"):
        frontend.carry(second, 0)
    with pytest.raises(VerbError, match="has not succeeded on fe1 yet"):
        frontend.publish(first)
    # the first one, with nothing done in test mode
    assert list(frontend.reconfigure(first, 60, test=True)) == ["chef-server-ctl reconfigure"]
    assert not (tmp_path / "1" / "var/log/opscode/calls.log").exists()
    assert reconfigure(first) == {"chef-server-ctl reconfigure": "it has not run successfully yet"}
    assert reconfigure(first) == {} and stage.indices == {"/chef"}
    stage.node.sql("alter system set log_statement = 'all'")
    stage.node.sql("select pg_reload_conf()")
    assert set(frontend.publish(first, test=True)) == set(frontend_files.REQUIRED)
    assert set(frontend.publish(first)) == set(frontend_files.REQUIRED)
    assert frontend.publish(first) == frontend.publish(first, test=True) == frontend.carry(first, 0) == {}
    # the second one would make the user pivotal again, and takes over instead
    with pytest.raises(VerbError, match="duplicate pivotal user"):
        reconfigure(second)
    due = {*frontend_files.REQUIRED, frontend_files.SENTINEL}
    assert set(frontend.carry(second, 0, test=True)) == set(frontend.carry(second, 0)) == due
    assert frontend.carry(second, 0) == frontend.publish(second) == {}
    assert reconfigure(second) and reconfigure(second) == {}
    secrets = [(tmp_path / n / frontend_files.SECRETS[1:]) for n in "12"]
    assert secrets[0].read_bytes() == secrets[1].read_bytes() and oct(secrets[1].stat().st_mode) == "0o100600"
    # a change on the first one comes to the second
    changed = json.loads(secrets[0].read_text()) | {"data_collector": {"token": "9e1f33"}}
    secrets[0].write_text(json.dumps(changed))
    assert frontend.publish(first) == {frontend_files.SECRETS: "published"}
    assert frontend.reconfigure(second, 60, test=True)
    assert frontend.carry(second, 0) == {frontend_files.SECRETS: "carried over"}
    assert reconfigure(second) == {"chef-server-ctl reconfigure": "settings, carried files or the package have changed"}
    assert frontend.carry(second, 0) == reconfigure(second) == {}
    # the first one's machine is lost: the new one takes what is published
    renewed = stage.front_end(tmp_path / "3", "fe1")
    assert set(frontend.carry(renewed, 0)) == due
    assert reconfigure(renewed) and frontend.publish(renewed) in ({}, {frontend_files.SECRETS: "published"})
    # a failure says why and what it said, without secrets; the next run repeats it
    password = changed["bookshelf"]["sql_password"]
    (tmp_path / "2" / "chef-server-ctl").write_text(f"#!/bin/sh\necho password {password}\nexit 3\n")
    with pytest.raises(VerbError, match=r"failed with exit code 3; its last lines:\npassword \*{8}"):
        frontend.reconfigure(second, 60, anyway=True)
    (tmp_path / "2" / "chef-server-ctl").write_text("#!/bin/sh\nsleep 30\n")
    began = time.monotonic()
    with pytest.raises(VerbError, match=r"did not end within 0\.2 s"):
        frontend.reconfigure(second, 0.2)
    assert time.monotonic() - began < 5
    # every statement was logged, except those with the secrets in them
    for text in (stage.node.log(), *(log.read_text() for log in tmp_path.glob("*/var/log/opscode/calls.log"))):
        assert password not in text and password.encode().hex() not in text
    assert "frontend_files" not in stage.node.log()


def test_nobody_but_the_superuser_reads_the_secrets(stage: Stage) -> None:
    stage.node.sql("create schema if not exists chefha")
    stage.node.sql("create role nosy login password 'n'")
    try:
        assert stage.node.sql("select has_schema_privilege('nosy', 'chefha', 'usage')") == [(False,)]
    finally:
        stage.node.sql("drop role nosy")


def test_status_through_two_ports(stage: Stage) -> None:
    settings = stage.settings
    data = frontend_status.report(settings, *frontend_status.ask(settings, 2.0))
    assert (data["leader"], data["leader_state"], data["problems"]) == ("be-1", "leading", {})
    assert data["search"] == {"status": "green", "nodes": 2}
    assert [row["role"] for row in data["members"]] == ["leader", "-", "-"]
    assert [row["search"] for row in data["members"]] == ["master", "not_master", "offline"]
    assert data["members"][0]["lag_bytes"] == 0 and data["members"][0]["timeline"] == 1
    assert table(data).splitlines()[1].split()[:3] == ["be-1", MEMBERS["be-1"], "-"]
    json.dumps(data)
    silent = frontend_status.report(settings, *frontend_status.ask(
        dataclasses.replace(settings, postgresql=dataclasses.replace(settings.postgresql, port=1)), 1.0))  # fmt: skip
    assert silent["leader"] is None and "refused" in silent["problems"]["postgresql"]


def test_the_second_way_in_writes_chefs_haproxy(stage: Stage, tmp_path: Path) -> None:
    front = stage.front_end(tmp_path / "m", "fe1")
    with contextlib.suppress(VerbError):  # other tests may have made Chef's databases before
        frontend.reconfigure(front, 60)
    file = tmp_path / "m/var/opt/opscode/haproxy/etc/haproxy.cfg"
    text = file.read_text()
    assert oct(file.stat().st_mode) == "0o100600"
    for line in (
        "bind 127.0.0.1:5432",
        "bind 127.0.0.1:9200",
        "http-check send meth GET uri /leader ver HTTP/1.1 hdr Host localhost:7331",
        "default-server inter 2s rise 1 fall 1 on-marked-down shutdown-sessions",
        f"server backend2 127.0.0.3:{front.settings.postgresql.port} check port 7331",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("form", "version"),
    [("classic", "12.19.31"), ("elasticsearch", "15.10.117"), ("opensearch", "15.10.117"), ("members", "15.10.117")],
)
def test_ruby_reads_every_form_as_it_was_meant(tmp_path: Path, form: str, version: str) -> None:
    golden = Path(__file__).resolve().parents[1] / f"unit/chef_server/{form}.rb"
    shown = json.loads(read_by_ruby(tmp_path, golden.read_text(), version).stdout)
    assert shown["fqdn"] == shown["api_fqdn"] == "chef.example.com"
    assert shown["postgresql"]["db_superuser_password"] == 'it\'s #{`id`} \\ "so"'
    assert shown["bookshelf"]["storage_type"] == "sql"
    assert shown["use_chef_backend"] is (form == "members")


@pytest.mark.parametrize(
    "line", ["postgresql['vipp'] = 'x'", "no_such_setting 1", "opensearch['external'] = true", "1 +"]
)
def test_the_stand_in_fails_on_what_chef_does_not_know(tmp_path: Path, line: str) -> None:
    done = read_by_ruby(tmp_path, f'fqdn "x"\n{line}\n', "12.19.31")
    assert done.returncode == 1 and "Error loading file" in done.stderr and "chef-server.rb" in done.stderr


def read_by_ruby(root: Path, text: str, version: str) -> subprocess.CompletedProcess[str]:
    """What chef-server-ctl of this release makes of a chef-server.rb."""
    file = root / "etc/opscode/chef-server.rb"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    environment = {"PATH": "/usr/bin:/bin", "CHEF_STANDIN_ROOT": str(root), "CHEF_STANDIN_VERSION": version}
    return subprocess.run(["ruby", STANDIN, "show-config"], env=environment, capture_output=True, text=True, timeout=20)


def test_the_package_of_the_stand_in_is_built_the_same_each_time(tmp_path: Path) -> None:
    packages = [deb.build(tmp_path), deb.build(tmp_path / "again")]
    assert packages[0].read_bytes() == packages[1].read_bytes()
    about = subprocess.run(["dpkg-deb", "-f", packages[0]], capture_output=True, text=True, check=True).stdout
    assert "Package: chef-server-core" in about and "stand-in" in about and "not Chef Infra Server" in about
