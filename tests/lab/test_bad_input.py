"""A wrong pillar: state.apply fails with one sentence that names the place, and nothing on the machine has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lab.api import Lab
from lab.deploy import PILLAR
from lab.topology import BACKENDS, MASTER
from lab.witness import Witness
from tests.lab.bring_up import APPLY_TIMEOUT, did_change, failed, fingerprints

FILE = f"{PILLAR}/chefha.sls"
VICTIM = BACKENDS[1].name
PROCESSES = "systemctl show -P MainPID chefha-postgresql chefha-etcd chefha-leaderl salt-minion"
Tree = dict[str, Any]


def without_members(tree: Tree) -> None:
    del tree["members"]


def two_members(tree: Tree) -> None:
    del tree["members"][BACKENDS[2].name]


def address_of_a_member_as_vip(tree: Tree) -> None:
    tree["vip"] = BACKENDS[0].address


def unknown_profile(tree: Tree) -> None:
    tree["profile"] = "hasty"


def broken_timing_rule(tree: Tree) -> None:
    tree["leaderl"] = {"leader_ttl_seconds": 3, "interval_seconds": 2.0, "request_timeout_seconds": 1.0}


WRONG: tuple[tuple[Callable[[Tree], None], tuple[str, ...]], ...] = (
    (without_members, ("chefha:members",)),
    (two_members, ("chefha:members", "2 members", "exactly 3")),
    (address_of_a_member_as_vip, ("chefha:vip", "address of the member")),
    (unknown_profile, ("chefha:profile", "hasty", "fast, balanced")),
    (broken_timing_rule, ("timing rule", "leader_ttl_seconds")),
)


@contextmanager
def changed_pillar(lab: Lab, change: Callable[[Tree], None]) -> Iterator[None]:
    """The lab's pillar, changed while the block runs."""
    code, text = lab.exec(MASTER.name, ["cat", FILE])
    assert code == 0, text
    first, _, body = text.partition("\n")
    tree = json.loads(body)
    change(tree["chefha"])
    lab.machines.write(MASTER, {FILE: f"{first}\n{json.dumps(tree)}\n"}, mode=0o600)
    try:
        yield
    finally:
        lab.machines.write(MASTER, {FILE: text}, mode=0o600)


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[change.__name__ for change, _ in WRONG])
def test_f66_wrong_pillar(lab: Lab, witness: Witness, change: Callable[[Tree], None], words: tuple[str, ...]) -> None:
    """F54, F66: one state fails, with one sentence; files, packages, processes and the leader are as before."""
    before = (fingerprints(lab)[VICTIM], lab.exec(VICTIM, PROCESSES), witness.leader())
    with changed_pillar(lab, change):
        answer = lab.salt(VICTIM, "state.apply", timeout=APPLY_TIMEOUT)[VICTIM]
    problems = failed(answer)
    assert problems
    assert did_change(answer) == set()
    sentence = next(iter(problems.values()))
    assert "\n" not in sentence.strip()
    assert "Traceback" not in sentence
    for word in words:
        assert word in sentence
    assert (fingerprints(lab)[VICTIM], lab.exec(VICTIM, PROCESSES), witness.leader()) == before
