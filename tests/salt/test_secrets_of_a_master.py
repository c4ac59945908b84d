"""Secrets from the master, with a real master and minions: made by the runner, handed out by ext_pillar, to whom they
belong and to nobody else.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.salt.playground import REPOSITORY

from chefha_core.settings import SECRETS_OF

MEMBERS = {"be1": "127.0.0.1", "be2": "127.0.0.2", "be3": "127.0.0.3"}
TREE = {
    "cluster": "test",
    "members": MEMBERS,
    "vip": "127.0.0.9",
    "frontends": {"fe1": "127.0.0.5"},
    "search": {"source": {"package": "search-engine"}},
}
MINIONS = ("be1", "fe1", "web1")
#: how the master gets the loader modules: synced from the file server, or with the wheel (here: from the checkout)
CHANNELS = ("synced", "installed")


@dataclass
class World:
    """A master with a store of its own, and minions of every kind."""

    master: Any
    store: Path
    pillar: Path
    salt: Any
    run: Any

    def tree(self, **more: Any) -> None:
        """Another pillar."""
        (self.pillar / "chefha.sls").write_text(json.dumps({"chefha": {**TREE, **more}}))

    def items(self, minion: str, **more: Any) -> dict[str, Any]:
        """A minion's whole pillar, rendered now."""
        found: dict[str, Any] = self.salt.run("pillar.items", minion_tgt=minion, unmask=True, **more).data
        return found

    def made(self, **more: str) -> Any:
        """What the runner says."""
        return self.run.run("chefha.secrets", "cluster=test", *(f"{key}={value}" for key, value in more.items()))


@pytest.fixture(scope="module", params=CHANNELS)
def world(request: Any, salt_factories: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("secrets")
    pillar = folder / "pillar"
    pillar.mkdir()
    (pillar / "top.sls").write_text("base: {'*': [chefha]}\n")
    overrides: dict[str, Any] = {
        "file_roots": {"base": [str(REPOSITORY / "salt")]},
        "pillar_roots": {"base": [str(pillar)]},
        "ext_pillar": [{"chefha_secrets": {}}],
        "chefha": {"secrets_dir": str(folder / "store")},
        "interface": "127.0.0.1",
    }
    if request.param == "installed":
        overrides["module_dirs"] = [str(REPOSITORY)]
    else:
        overrides["extension_modules"] = str(folder / "extmods")
    master = salt_factories.salt_master_daemon(f"secrets-{request.param}", overrides=overrides)
    minions = [
        master.salt_minion_daemon(name, overrides={"module_dirs": [str(REPOSITORY)], "id": name}) for name in MINIONS
    ]
    with master.started():
        made = World(master, folder / "store" / "test", pillar, master.salt_cli(), master.salt_run_cli())
        made.tree()
        if request.param == "synced":
            synced = made.run.run("saltutil.sync_all").data
            assert ("runners.chefha" in synced["runners"], synced["pillar"]) == (True, ["pillar.chefha_secrets"])
        with minions[0].started(), minions[1].started(), minions[2].started():
            yield made


def test_secrets_reach_whom_they_belong_to(world: World) -> None:
    before = world.items("be1")
    assert "salt-run chefha.secrets cluster=test" in before["chefha_problem"] and "secrets" not in before["chefha"]
    checked = world.salt.run("state.single", "chefha.checked", "x", minion_tgt="be1")
    [answer] = checked.data.values()
    assert answer["result"] is False and "the master says: there are no secrets of the cluster test" in str(answer)

    said = world.made()
    assert said.returncode == 0 and set(SECRETS_OF["backend"]) < set(said.data["made"])
    again = world.made()
    assert again.data["made"] == [] and "nothing changed" in again.data["comment"]

    member, front, other = (world.items(name) for name in MINIONS)
    assert set(member["chefha"]["secrets"]) == set(SECRETS_OF["backend"])
    assert set(member["chefha"]["tls"]) == {"ca", "certificate", "key"}
    assert set(front["chefha"]["secrets"]) == set(SECRETS_OF["frontend"]) and set(front["chefha"]["tls"]) == {"ca"}
    assert other["chefha"] == TREE and "chefha_problem" not in other
    checked = world.salt.run("state.single", "chefha.checked", "x", minion_tgt="be1")
    assert [row["result"] for row in checked.data.values()] == [True]

    for text in (str(said.data), said.stdout, again.stdout):
        assert not any(secret in text for secret in member["chefha"]["secrets"].values())


def test_a_minion_that_names_itself_a_member_gets_nothing(world: World) -> None:
    world.made()
    forged = {"chefha": {**TREE, "members": {**MEMBERS, "web1": "127.0.0.7"}, "vip": "127.0.0.8"}}
    tree = world.items("web1", pillar=forged)["chefha"]
    assert "web1" in tree["members"] and "secrets" not in tree and "tls" not in tree
    files = {path.stem for path in (world.store / "members").glob("*.json")}
    assert "web1" not in files
    front = world.items("fe1", pillar={"chefha": {"members": {**MEMBERS, "fe1": "127.0.0.1"}, "frontends": {}}})
    assert set(front["chefha"]["secrets"]) == set(SECRETS_OF["frontend"]), "a front end stays one"


def test_what_the_pillar_says_wins(world: World) -> None:
    world.made()
    try:
        world.tree(secrets={"token": "mine"}, tls={"enabled": False})
        tree = world.items("be1")["chefha"]
        assert tree["secrets"]["token"] == "mine" and tree["tls"] == {"enabled": False}
        assert len(tree["secrets"]["etcd_password"]) == 48
    finally:
        world.tree()


def test_a_rotation_reaches_the_members_and_a_wrong_step_is_one_sentence(world: World) -> None:
    world.made()
    before = world.items("be1")["chefha"]
    assert "apply the states" in world.made(rotate="token").data["next"]
    after = world.items("be1")["chefha"]
    assert after["secrets"]["previous_token"] == before["secrets"]["token"] != after["secrets"]["token"]
    refused = world.made(rotate="token")
    assert refused.returncode == 1 and "rotate=token_done" in refused.data["error"]
    assert "Traceback" not in refused.stdout + refused.stderr and "\n" not in refused.data["error"]
    assert world.made(rotate="token_done").returncode == 0
    world.made(rotate="certificates")
    assert world.items("be1")["chefha"]["tls"]["key"] != before["tls"]["key"]


def test_the_store_is_for_the_master_alone(world: World) -> None:
    world.made()
    world.items("be1")
    assert (world.store / "members" / "be1.json").exists()
    for path in [world.store, *world.store.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_asking_again_costs_little(world: World) -> None:
    world.made()
    world.items("be1")
    times = []
    for _ in range(3):
        began = time.monotonic()
        world.run.run("pillar.show_pillar", "be1")
        times.append(time.monotonic() - began)
    print(f"\nsalt-run pillar.show_pillar be1: {min(times):.2f} s")


@pytest.mark.parametrize(
    ("file", "call"), [("_runners/chefha.py", "secrets()"), ("_pillar/chefha_secrets.py", "_core('secrets')")]
)
def test_a_master_without_the_library_says_so(tmp_path: Path, file: str, call: str) -> None:
    shutil.copy(REPOSITORY / file, tmp_path / "module_under_test.py")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('chefha_core'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import module_under_test as m\n"
        "m.__opts__ = {'chefha': {'secrets_dir': sys.argv[1]}}; m.__context__ = {}\n"
        f"try: print(m.{call})\nexcept ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "the chefha library is not in the Python that runs the Salt master" in done.stdout, done.stderr
    assert "salt-pip" in done.stdout and done.stdout.count("\n") == 1
