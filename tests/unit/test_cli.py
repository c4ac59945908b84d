"""The shell command: every verb answers as data, a refusal too; bash completes what its parsers know."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chefha_core import cli
from chefha_core.cli import GROUPS, all_parsers, completion
from chefha_core.cli.terms import confirm
from chefha_core.model import EtcdView
from chefha_core.settings import SECRETS_OF, from_pillar
from chefha_core.verbs import cluster_status, switches
from chefha_core.verbs.reach import VerbError

MEMBERS = {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"}
SETTINGS = from_pillar(
    {
        "members": MEMBERS,
        "vip": "192.0.2.100",
        "search": {"flavor": "opensearch", "source": {"package": "search-engine"}},
        "secrets": dict.fromkeys(SECRETS_OF["backend"], "a"),
        "tls": {"enabled": False},
    }
)


def test_every_verb_is_in_its_group() -> None:
    """Else it would be found in --help only, and not when it is called."""
    assert set(all_parsers()) == {verb for verbs in GROUPS.values() for verb in verbs}


def test_every_verb_has_json() -> None:
    assert not {name for name, parser in all_parsers().items() if "--json" not in parser.format_help()}


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a verb prints that is carried out."""
    assert cli.main(words) == 0
    return capsys.readouterr().out


def test_the_sample_is_data_too(capsys: pytest.CaptureFixture[str]) -> None:
    verb = "gen-sample-backend-config"
    assert json.loads(printed(capsys, verb, "--json")) == yaml.safe_load(printed(capsys, verb))
    old = json.loads(printed(capsys, verb, "--format", "chef-backend.rb", "--json"))
    assert old == {"chef_backend_rb": printed(capsys, verb, "--format", "chef-backend.rb")}


def test_fresh_secrets_are_data_too(capsys: pytest.CaptureFixture[str]) -> None:
    members = [f"{name}={address}" for name, address in MEMBERS.items()]
    made = json.loads(printed(capsys, "gen-secrets", *members, "--vip", "192.0.2.100", "--json"))
    assert from_pillar(made["chefha"]).members == MEMBERS


def test_the_configuration_of_a_front_end_is_data_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("chefha_core.cli.samples.load", lambda: SETTINGS)
    verb, file = ["gen-server-config", "chef.example.com"], tmp_path / "chef-server.rb"
    text = json.loads(printed(capsys, *verb, "--json"))["chef_server_rb"]
    assert text == printed(capsys, *verb)
    assert json.loads(printed(capsys, *verb, "-f", str(file), "--json")) == {"file": str(file)}
    assert file.read_text() == text


def test_where_the_secrets_are_is_data_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("chefha_core.cli.looking.load", lambda: SETTINGS)
    file = str(tmp_path / "secrets")
    assert json.loads(printed(capsys, "show-config", "--secrets", file, "--json")) == {"file": file}


def test_a_refusal_is_json_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*arguments: Any) -> None:
        raise VerbError("set-cluster-failover: no")

    monkeypatch.setattr("chefha_core.cli.leading.node", lambda: (SETTINGS, "be1"))
    monkeypatch.setattr(switches, "set_cluster_failover", refuse)
    assert cli.main(["set-cluster-failover", "on", "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"error": "set-cluster-failover: no"}
    assert printed.err == "chef-backend-ctl: set-cluster-failover: no\n"
    assert cli.main(["set-cluster-failover", "on"]) == 1
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "agreed"), [("y\n", True), ("Yes\n", True), ("\n", False), ("no\n", False), ("", False)]
)
def test_whoever_asks_back_leaves_stdout_to_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, agreed: bool
) -> None:
    """Typing nothing at all is Ctrl-D."""
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    wanted = argparse.Namespace(verb="cleanse", yes=False)
    with contextlib.nullcontext() if agreed else pytest.raises(VerbError, match="cleanse: not confirmed, so nothing"):
        confirm(wanted, "the data go")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "the data go\nGo on? [y/N] " + ("" if typed else "\n")


@pytest.mark.parametrize(("name", "code"), [("be1", 0), ("be3", 1)])
def test_cluster_status_of_a_node_that_was_removed_answers_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    view = EtcdView(9, removed=frozenset({"be3"}))
    monkeypatch.setattr("chefha_core.cli.looking.node", lambda: (SETTINGS, name))
    monkeypatch.setattr(cluster_status, "ask", lambda *how: cluster_status.Answers(view))
    assert cli.main(["cluster-status", "--json"]) == code
    said = capsys.readouterr()
    assert json.loads(said.out)["removed"] == ["be3"]
    assert ("in no cluster any more: be3 was removed from chefha; let it in again" in said.err) is bool(code)
    assert said.err.count("\n") == code
    assert cli.main(["cluster-status"]) == code
    assert capsys.readouterr().out.startswith("Name  IP")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "chef-backend-ctl"
    path.write_text(completion.script(SETTINGS))
    return path


def completed(script: Path, line: str) -> list[str]:
    """What bash offers at the end of a line, asked as it asks itself."""
    bash = shutil.which("bash")
    assert bash, "bash is not installed"
    ask = """
        source "$1"; shift
        [ "$(complete -p chef-backend-ctl)" = "complete -F _chef_backend_ctl chef-backend-ctl" ] || exit 9
        compopt() { echo "compopt $*"; }   # which wants a completion that somebody types
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _chef_backend_ctl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    words = line.split(" ")
    done = subprocess.run([bash, "-euc", ask, "bash", str(script), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split("\n")[:-1])


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("chef-backend-ctl prom", ["promote"]),
        ("chef-backend-ctl set-", ["set-cluster-failover", "set-node-failover"]),
        ("chef-backend-ctl promote be", ["be1", "be2", "be3"]),
        ("chef-backend-ctl promote --timeout 5 be3", ["be3"]),
        ("chef-backend-ctl promote --timeout ", [""]),
        ("chef-backend-ctl status e", ["etcd"]),
        ("chef-backend-ctl status o", ["opensearch"]),
        ("chef-backend-ctl status --", ["--help", "--json", "--simple"]),
        ("chef-backend-ctl set-cluster-failover o", ["off", "on"]),
        ("chef-backend-ctl gen-sample-backend-config --format ", ["chef-backend.rb", "pillar"]),
        ("chef-backend-ctl gen-server-config -f ", ["", "compopt -o default"]),
        ("chef-backend-ctl unknown ", [""]),
    ],
)
def test_bash_completes(script: Path, line: str, offered: list[str]) -> None:
    assert completed(script, line) == offered


def test_bash_knows_every_verb(script: Path) -> None:
    assert completed(script, "chef-backend-ctl ") == sorted(all_parsers())
