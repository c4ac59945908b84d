"""The state of the firewall: what test mode announces is what changes, and a second run changes nothing."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.loader
import salt.state
from tests.salt.playground import REPOSITORY

from chefha_core.layout import firewall
from chefha_core.settings import SECRETS_OF, from_pillar

PILLAR: dict[str, Any] = {
    "members": {"be1": "192.0.2.1", "be2": "192.0.2.2", "be3": "192.0.2.3"},
    "vip": "192.0.2.9",
    "frontends": {"fe1": "192.0.2.31"},
    "search": {"source": {"package": "search-engine"}},
    "secrets": dict.fromkeys(SECRETS_OF["backend"], "a"),
    "tls": {"enabled": False},
}
ACTIVE = f"systemctl is-active --quiet {firewall.UNIT}"
THERE = "nft list table inet chefha >/dev/null 2>&1"
Answer = dict[str, Any]


@dataclasses.dataclass
class Machine:
    """Files, systemd and nft of a machine as far as the firewall's wishes touch them, played."""

    files: dict[str, str] = dataclasses.field(default_factory=dict)
    packages: set[str] = dataclasses.field(default_factory=set)
    active: bool = False
    table: str = ""
    test: bool = False

    def changed(self, before: object, after: object, do: Callable[[], None]) -> Answer:
        if before == after:
            return {"result": True, "changes": {}, "comment": "as wanted"}
        if self.test:
            return {"result": None, "changes": {}, "comment": "would be changed"}
        do()
        return {"result": True, "changes": {"old": before, "new": after}, "comment": "changed"}

    def installed(self, name: str, **_: Any) -> Answer:
        return self.changed(name in self.packages, True, lambda: self.packages.add(name))

    def managed(self, name: str, contents: str = "", **_: Any) -> Answer:
        return self.changed(self.files.get(name), contents, lambda: self.files.update({name: contents}))

    def absent(self, name: str) -> Answer:
        return self.changed(name in self.files, False, lambda: self.files.pop(name, None) and None)

    def running(self, name: str, enable: bool) -> Answer:
        def start() -> None:
            if not self.active:
                self.load()
            self.active = True
            self.files[firewall.ENABLED] = "link"

        return self.changed(self.active and firewall.ENABLED in self.files, enable, start)

    def dead(self, name: str) -> Answer:
        return self.changed(self.active, False, self.stop)

    def run(self, name: str) -> Answer:
        acts = {
            "systemctl daemon-reload": lambda: None,
            f"systemctl reload {firewall.UNIT}": self.load,
            f"nft delete table {firewall.TABLE}": self.stop,
        }
        do = acts.get(name) or (self.load if name.startswith("if systemctl is-active") else None)
        assert do, name
        return self.changed("", name, do)

    def load(self) -> None:
        self.table = self.files[firewall.FILE]

    def stop(self) -> None:
        self.active, self.table = False, ""

    def retcode(self, command: str, **_: Any) -> int:
        """The conditions that the firewall's wishes know, word by word."""
        there, active = bool(self.table), self.active
        known = {
            f"{ACTIVE} && [ -e {firewall.FILE} ] && ! {THERE}": active and firewall.FILE in self.files and not there,
            f"! {ACTIVE} && {THERE}": there and not active,
        }
        return 0 if known[command] else 1

    def state(self, pillar: Mapping[str, Any], name: str = "be1", **more: Any) -> Any:
        """`_states/chefha.py` as Salt loads it, on this machine."""
        spec = importlib.util.spec_from_file_location("chefha_state", REPOSITORY / "_states/chefha.py")
        assert spec and spec.loader
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.__opts__ = {"test": self.test, "id": name}
        module.__pillar__ = {"chefha": pillar, **more}
        module.__context__ = {}
        module.__salt__ = {
            "service.status": lambda unit: self.active,
            "service.enabled": lambda unit: False,
            "cmd.retcode": self.retcode,
        }
        module.__states__ = {
            "pkg.installed": self.installed, "file.managed": self.managed, "file.absent": self.absent,
            "file.directory": lambda name, **_: self.managed(name), "service.running": self.running,
            "service.dead": self.dead, "cmd.run": self.run,
        }  # fmt: skip
        return module

    def apply(self, pillar: Mapping[str, Any] = PILLAR, test: bool = False, **more: Any) -> Answer:
        self.test = test
        answer: Answer = self.state(pillar, **more).firewall("firewall")
        return answer


OFF = {**PILLAR, "firewall": {"enabled": False}}
MORE = {**PILLAR, "firewall": {"open_ports": [22, 8022]}}


def fresh(machine: Machine) -> None:
    """Nothing was ever laid out."""


def laid_out(machine: Machine) -> None:
    machine.apply()


def flushed(machine: Machine) -> None:
    """Somebody flushed all tables."""
    machine.apply()
    machine.table = ""


def stopped(machine: Machine) -> None:
    machine.apply()
    machine.stop()


def flushed_and_file_lost(machine: Machine) -> None:
    flushed(machine)
    del machine.files[firewall.FILE]


def unit_lost(machine: Machine) -> None:
    """systemd thinks that it has stopped, and the table is there."""
    machine.apply()
    machine.active = False


@pytest.mark.parametrize("before", [fresh, laid_out, flushed, flushed_and_file_lost, stopped, unit_lost])
@pytest.mark.parametrize("wanted", [PILLAR, MORE, OFF], ids=["on", "another port", "off"])
def test_test_mode_announces_exactly_what_changes(before: Callable[[Machine], None], wanted: Mapping[str, Any]) -> None:
    machine = Machine()
    before(machine)
    announced = machine.apply(wanted, test=True)
    done = machine.apply(wanted)
    assert list(announced["changes"]) == list(done["changes"])
    assert (announced["result"] is None) == bool(done["changes"])
    assert done["result"] is True
    again = machine.apply(wanted, test=True)
    assert (again["result"], again["changes"]) == (True, {})
    on = wanted["firewall"]["enabled"] if wanted is OFF else True
    assert machine.active == on and machine.table == (machine.files[firewall.FILE] if on else "")
    assert on or set(machine.files) <= {"/etc/chefha"}


def test_a_master_does_not_lock_its_minions_out() -> None:
    """By the pillar, or because a salt-master is enabled there; nobody else opens Salt's ports."""
    machine = Machine()
    machine.apply()
    assert "4505" not in machine.table
    machine.apply(chefha_masters=["be1"])
    assert "tcp dport { 4505, 4506 } accept" in machine.table
    state = machine.state(PILLAR)
    state.__salt__["service.enabled"] = lambda unit: unit == "salt-master"
    changes = state.firewall("x")["changes"]
    assert changes == {}, "as before"


def test_a_front_end_gets_a_firewall_of_its_own() -> None:
    machine = Machine()
    assert machine.state(PILLAR, "fe1").firewall("x")["result"] is True
    assert "tcp dport { 22, 80, 443 } accept" in machine.table and "5432" not in machine.table


def test_a_wrong_port_changes_nothing() -> None:
    machine = Machine()
    answer = machine.apply({**PILLAR, "firewall": {"open_ports": ["ssh"]}})
    assert answer["result"] is False and answer["comment"].startswith("pillar chefha:firewall:open_ports has 'ssh'")
    assert machine == Machine()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="needs root and nftables")
def test_rules_that_nft_refuses_are_not_put_in_place(tmp_path: Path) -> None:
    """Salt's own file.managed, as the wish calls it."""
    opts = salt.config.minion_config(None)
    opts.update(
        root_dir=str(tmp_path), cachedir=str(tmp_path), file_client="local", test=False, id="be1",
        extension_modules=str(tmp_path / "extmods"),
    )  # fmt: skip
    opts["grains"] = salt.loader.grains(opts)
    salt_state = salt.state.State(opts, initial_pillar={})
    wishes = firewall.firewall(from_pillar(PILLAR), "be1")
    wish = next(wish for wish in wishes if wish.arguments["name"] == firewall.FILE)
    target = tmp_path / "firewall.nft"

    def put(contents: str) -> Answer:
        low = {"state": "file", "fun": "managed", "order": 1, "__id__": "x", "__sls__": "x", "__env__": "base"}
        found: Answer = salt_state.call({**low, **wish.arguments, "name": str(target), "contents": contents})
        return found

    assert put(wish.arguments["contents"])["result"] is True
    refused = put("table inet chefha { nonsense }")
    assert refused["result"] is False and "nonsense" in refused["comment"]
    assert target.read_text() == wish.arguments["contents"] + "\n"
