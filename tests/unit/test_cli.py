"""The shell command: every verb answers as data, a refusal too; bash completes what its parsers know."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chefha_core import cli
from chefha_core.cli import GROUPS, all_parsers, completion
from chefha_core.settings import SECRETS_OF, from_pillar
from chefha_core.verbs import switches
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
#: print a text for somebody else, whose form is what it is for
PRINTERS = {"gen-server-config", "gen-sample-backend-config", "gen-secrets"}


def test_every_verb_is_in_its_group() -> None:
    """Else it would be found in --help only, and not when it is called."""
    assert set(all_parsers()) == {verb for verbs in GROUPS.values() for verb in verbs}


def test_every_verb_that_answers_has_json() -> None:
    without = {name for name, parser in all_parsers().items() if "--json" not in parser.format_help()}
    assert without == PRINTERS


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


def test_where_secrets_were_written_is_json_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("chefha_core.cli.looking.load", lambda: SETTINGS)
    assert cli.main(["show-config", "--secrets", str(tmp_path / "secrets.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(tmp_path / "secrets.json")}


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
