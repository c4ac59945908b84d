"""Search that the pillar wants no more: test mode announces exactly what changes, and a second run changes nothing."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import pytest
from tests.salt.playground import REPOSITORY

from chefha_core.layout import search
from chefha_core.search_engine import UNIT
from chefha_core.settings import SECRETS_OF

PILLAR: dict[str, Any] = {
    "members": {"be1": "192.0.2.1", "be2": "192.0.2.2", "be3": "192.0.2.3"},
    "vip": "192.0.2.9",
    "search": {"flavor": "none"},
    "secrets": dict.fromkeys(SECRETS_OF["backend"], "a"),
    "tls": {"enabled": False},
}
LAID_OUT = frozenset({search.ENABLED, f"{search.UNITS}/{UNIT}"})
Answer = dict[str, Any]


@dataclasses.dataclass
class Machine:
    """systemd and its units as far as the wishes touch them, played."""

    files: set[str]
    runs: bool
    test: bool = False

    def run(self, name: str) -> Answer:
        if not self.test and name == f"systemctl stop {UNIT}":
            self.runs = False
        return {"result": None if self.test else True, "changes": {} if self.test else {"ran": name}, "comment": name}

    def absent(self, name: str) -> Answer:
        there = name in self.files
        if not self.test:
            self.files.discard(name)
        changes = {"removed": name} if there and not self.test else {}
        return {"result": None if there and self.test else True, "changes": changes, "comment": "would be removed"}

    def apply(self, test: bool = False) -> Answer:
        self.test = test
        spec = importlib.util.spec_from_file_location("chefha_state", REPOSITORY / "_states/chefha.py")
        assert spec and spec.loader
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.__opts__ = {"test": test, "id": "be1"}
        module.__pillar__ = {"chefha": PILLAR}
        module.__salt__ = {"cmd.retcode": lambda command, **_: 0 if self.runs else 1}
        module.__states__ = {"file.absent": self.absent, "cmd.run": self.run}
        answer: Answer = module.search("x")
        return answer


@pytest.mark.parametrize("files", [frozenset(), LAID_OUT, LAID_OUT - {search.ENABLED}])
@pytest.mark.parametrize("runs", [True, False])
def test_a_search_that_nobody_wants_is_stopped_and_does_not_come_back(files: frozenset[str], runs: bool) -> None:
    machine = Machine(set(files), runs)
    announced, done = machine.apply(test=True), machine.apply()
    assert list(announced["changes"]) == list(done["changes"])
    assert (announced["result"] is None) == bool(done["changes"]) == bool(files or runs)
    assert done["result"] is True and not machine.runs and not machine.files
    again = machine.apply(test=True)
    assert (again["result"], again["changes"]) == (True, {})
