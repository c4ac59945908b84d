"""The loader modules without daemons: they load, are documented, and tell the truth with test=True."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import salt.config
import salt.loader
import salt.state
from tests.salt.playground import REPOSITORY, pillar

import chefha_core
from chefha_core.layout.catalogue import LAYOUTS
from chefha_core.layout.wish import reloaded, running, text_file

LOADERS = (
    "_modules/chefha.py",
    "_states/chefha.py",
    "_beacons/chefha_leader.py",
    "_runners/chefha.py",
    "_pillar/chefha_secrets.py",
)


@pytest.fixture(scope="module")
def opts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("minion")
    made: dict[str, Any] = salt.config.minion_config(None)
    made.update(
        id="be1", root_dir=str(folder), cachedir=str(folder), conf_file=str(folder / "minion"), test=True,
        module_dirs=[str(REPOSITORY)], file_client="local", file_roots={"base": [str(REPOSITORY / "salt")]},
        extension_modules=str(folder / "extmods"), chefha={"settings": str(folder / "settings.json")},
    )  # fmt: skip
    made["grains"] = salt.loader.grains(made)
    made["pillar"] = {"chefha": pillar("http://127.0.0.1:1")}
    return made


@pytest.fixture(scope="module")
def modules(opts: dict[str, Any]) -> Any:
    return salt.loader.minion_mods(opts)


@pytest.fixture(scope="module")
def states(opts: dict[str, Any], modules: Any) -> Any:
    return salt.loader.states(opts, modules, salt.loader.utils(opts), salt.loader.serializers(opts))


def plain(path: str) -> Any:
    """A loader module as Python sees it, without Salt."""
    spec = importlib.util.spec_from_file_location(Path(path).stem + "_plain", REPOSITORY / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", LOADERS)
def test_f68_every_loader_module_has_the_version_of_the_library(path: str) -> None:
    assert plain(path).__version__ == chefha_core.__version__


def test_every_verb_has_a_cli_example(modules: Any) -> None:
    verbs = [name for name in modules if name.startswith("chefha.") and name != "chefha.verb"]
    assert "chefha.promote" in verbs
    for name in verbs:
        assert f"chefha.{name.split('.')[1]}" in (inspect.getdoc(modules[name]) or "").split("CLI Example:")[1]


def test_every_layout_has_a_state_with_words(states: Any) -> None:
    for name in LAYOUTS:
        assert inspect.getdoc(states[f"chefha.{name}"])


def test_f66_a_wrong_pillar_fails_with_its_path(states: Any, opts: dict[str, Any]) -> None:
    wrong = {**opts, "pillar": {"chefha": {**opts["pillar"]["chefha"], "vip": "x"}}}
    fresh = salt.loader.states(wrong, salt.loader.minion_mods(wrong), {}, salt.loader.serializers(wrong))
    for name in ("checked", "settings", "postgresql"):
        answer = fresh[f"chefha.{name}"](name)
        assert (answer["result"], answer["changes"]) == (False, {})
        assert answer["comment"].startswith("pillar chefha:vip is 'x'")


def test_checked_changes_nothing(states: Any) -> None:
    right = {"name": "x", "result": True, "changes": {}, "comment": "the pillar is right"}
    assert states["chefha.checked"]("x") == right


def test_pending_changes_are_none_and_hide_secrets(opts: dict[str, Any]) -> None:
    low = {"state": "chefha", "fun": "settings", "name": "x", "order": 1}
    low |= {"__id__": "x", "__sls__": "x", "__env__": "base"}
    answer = salt.state.State(opts, initial_pillar=opts["pillar"]).call(low)
    assert answer["result"] is None and "/etc/chefha/settings.json" in answer["changes"]
    assert "superuser_password" not in json.dumps(answer)


def test_waiting_states_only_look_in_test_mode(states: Any) -> None:
    answer = states["chefha.etcd_healthy"]("x", timeout=60)
    assert answer["result"] is None and answer["changes"] and "in no cluster yet" in answer["comment"]


def test_f68_another_version_of_the_library_is_refused(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = plain("_modules/chefha.py")
    monkeypatch.setattr(module, "__version__", "9.9.9")
    monkeypatch.setattr(module, "_library_version", lambda: "0.1.0")
    monkeypatch.setattr(module, "sys", type("Sys", (), {"modules": {}}))
    with pytest.raises(Exception, match=r"modules are version 9\.9\.9 and its library is 0\.1\.0"):
        module._core("verbs.version")


def test_wrong_arguments_are_invocation_errors(modules: Any) -> None:
    for call in (
        lambda: modules["chefha.converge"](epoch=-1), lambda: modules["chefha.promote"](""),
        lambda: modules["chefha.start"]("etcd", timeout=-1), lambda: modules["chefha.stop"](service=3),
        lambda: modules["chefha.tail"](lines=0),
    ):  # fmt: skip
        with pytest.raises(Exception, match="expected") as refusal:
            call()
        assert type(refusal.value).__name__ == "SaltInvocationError"


def test_what_deletes_or_stops_needs_a_yes(modules: Any) -> None:
    for verb in ("cleanse", "uninstall"):
        with pytest.raises(Exception, match="nothing was changed: give yes=True"):
            modules[f"chefha.{verb}"]()


@pytest.mark.parametrize(
    "arguments",
    [("care", "cleanse"), ("gen_server_config", "gen_server_config"), ("services", ""), ("care", None), ("care", {})],
)
def test_no_command_line_reaches_the_library_past_its_verbs(modules: Any, arguments: Any) -> None:
    with pytest.raises(Exception, match="not for the command line; call the verb itself") as refusal:
        modules["chefha.verb"](*arguments)
    assert type(refusal.value).__name__ == "SaltInvocationError"


#: what each verb's function hands over to the library, behind this node's settings and name
HANDED_OVER: dict[str, tuple[dict[str, Any], str, tuple[Any, ...]]] = {
    "cleanse": ({"yes": True}, "care.cleanse", ()),
    "uninstall": ({"yes": True}, "care.uninstall", ()),
    "tail": ({"service": "etcd"}, "services.tail", ("etcd", 50)),
    "service_list": ({}, "services.service_list", ()),
    "gather_logs": ({}, "care_logs.gather_logs", ("/root",)),
    "stop": ({}, "services.control", ("stop", "", 120.0, {"through_salt": True})),
    "bootstrap": ({}, "bootstrap.bootstrap", (False, 30.0, 30.0)),
    "remove_node": ({"node": "be3"}, "remove_node.remove_node", ("be3", 30.0)),
    "promote": ({"node": "be2"}, "handover.promote", ("be2", 30.0)),
    "demote": ({}, "handover.demote", (30.0,)),
    "set_cluster_failover": ({"state": "off"}, "switches.set_cluster_failover", ("off",)),
    "set_node_failover": ({"state": "off"}, "switches.set_node_failover", ("off",)),
    "backup": ({}, "backup.backup", (False, 14400.0, "", 0, "")),
    "restore": ({"path": "/x"}, "restore.restore", ("/x", "", 14400.0, "", False)),
}


@pytest.mark.parametrize("verb", HANDED_OVER)
def test_verbs_of_the_other_files_reach_the_library(
    opts: dict[str, Any], modules: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    given, function, expected = HANDED_OVER[verb]
    settings = Path(opts["chefha"]["settings"])
    settings.write_text(json.dumps(opts["pillar"]["chefha"]))
    monkeypatch.setattr(
        f"chefha_core.verbs.{function}", lambda settings, *words, **more: (*words, *([more] if more else []))
    )
    try:
        assert modules[f"chefha.{verb}"](**given) == ("be1", *expected)
    finally:
        settings.unlink()  # the other tests are about a node that is in no cluster yet


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("bootstrap", {"quorum_loss_recovery": "yes"}, "expected True or False"),
        ("create_cluster", {"etcd_wait_time": 0}, "more than 0"),
        ("remove_node", {"node": ""}, "name or address of a member"),
        ("force_leader", {"timeout": "soon"}, "expected seconds"),
        ("join_cluster", {"peer": 7}, "name or address of a member"),
    ],
)
def test_verbs_about_members_say_what_they_expect(modules: Any, verb: str, arguments: Any, words: str) -> None:
    with pytest.raises(Exception, match=words) as refusal:
        modules[f"chefha.{verb}"](**arguments)
    assert type(refusal.value).__name__ == "SaltInvocationError"


def test_the_beacon_never_raises_and_accepts_an_empty_setting(opts: dict[str, Any], modules: Any) -> None:
    beacons = salt.loader.beacons(opts, modules)
    assert beacons["chefha_leader.validate"]([])[0] and beacons["chefha_leader.validate"]({})[0]
    assert beacons["chefha_leader.beacon"]([]) == []


def test_a_running_service_restarts_in_turn_where_its_layout_says_so(tmp_path: Path) -> None:
    """Only where something changed while it was running; what stands in the way fails the state with its words."""
    states = plain("_states/chefha.py")
    asked: list[str] = []

    def restart(unit: str) -> str:
        asked.append(unit)
        if len(asked) > 1:
            raise states.CommandExecutionError("it is the turn of be2")
        return "restarted in turn"

    fine = {"result": True, "changes": {}, "comment": ""}
    states.DUE = tmp_path / "due"
    states.__opts__ = {"test": False}
    states.__salt__ = {"service.status": lambda unit: True, "chefha.restart_in_turn": restart}
    states.__states__ = {"service.running": lambda **arguments: fine}
    wish = running("x.service", in_turn=True)
    assert states._carry_out(wish, False) == fine
    assert states._carry_out(wish, True) == {**fine, "changes": {"x.service": "restarted in turn"}}
    assert states._carry_out(wish, True) == {**fine, "result": False, "comment": "it is the turn of be2"}
    states.__opts__ = {"test": True}
    assert states._carry_out(wish, True)["result"] is None
    assert asked == ["x.service"] * 2


def test_a_restart_that_is_due_is_made_up_for_by_the_next_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file was changed, and the run ended before its service had read it, or that could not be restarted."""
    states = plain("_states/chefha.py")
    file, layouts = tmp_path / "file", {"a": [text_file(str(tmp_path / "file"), "new")], "b": [running("x.service")]}
    layouts["c"] = [*layouts["a"], *layouts["b"]]
    restarts = iter([False, True, True])
    runs = [False]

    def written(**arguments: Any) -> dict[str, Any]:
        changes = {} if file.exists() else {"diff": "new"}
        if not states.__opts__["test"]:
            file.touch()
        return {"result": None if changes and states.__opts__["test"] else True, "changes": changes, "comment": ""}

    fine = {"result": True, "changes": {}, "comment": ""}
    core = SimpleNamespace(layout=lambda state, *about: layouts[state])
    monkeypatch.setattr(states, "_core", lambda part: core)
    states.DUE, states.__pillar__, states.__opts__ = tmp_path / "run/due", {}, {"test": False, "id": "be1"}
    states.__salt__ = {"service.status": lambda unit: runs[0], "service.restart": lambda unit: next(restarts)}
    states.__states__ = {"file.managed": written, "service.running": lambda **arguments: fine}
    assert states._lay_out("c", "c")["changes"] and not any(states.DUE.iterdir()), "it was started with the new file"
    file.unlink()
    runs[0] = True
    assert states._lay_out("c", "c")["comment"] == "service.running x.service: x.service could not be restarted"
    states.__opts__["test"] = True
    assert states._lay_out("c", "c")["changes"] == {"x.service": {"x.service": "would be restarted"}}
    states.__opts__["test"] = False
    assert states._lay_out("c", "c")["changes"] == {"x.service": {"x.service": "restarted"}}
    assert states._lay_out("c", "c")["changes"] == {}
    file.unlink()
    assert states._lay_out("a", "a", reads_it="x.service")["changes"]
    assert states._lay_out("b", "b")["changes"] == {"x.service": {"x.service": "restarted"}}
    layouts["d"] = [*layouts["a"], running("y.service"), reloaded("z.service")]
    states.__states__["cmd.run"] = lambda **arguments: {**fine, "changes": {"retcode": 0}}
    file.unlink()
    states.__states__["service.running"] = lambda **arguments: {**fine, "result": False}
    assert states._lay_out("d", "d")["result"] is False
    runs[0], states.__states__["service.running"] = False, lambda **arguments: fine
    assert list(states._lay_out("d", "d")["changes"].values()) == [{"retcode": 0}], "what was not told is told now"
    assert states._lay_out("d", "d")["changes"] == {}


def test_etcd_access_tells_what_it_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    states = plain("_states/chefha.py")
    states.__opts__ = {"test": True, "id": "be1"}
    states.__pillar__ = {"chefha": {**pillar("http://127.0.0.1:1"), "etcd_endpoints": [], "tls": {"enabled": False}}}
    states.__pillar__["chefha"]["members"] = {"be1": "127.0.0.1", "be2": "127.0.0.2", "be3": "127.0.0.3"}
    states.__pillar__["chefha"]["etcd"] = {"client_port": 1}
    answer = states.etcd_access("x")
    assert answer["result"] is None
    assert "etcd's users cannot be looked at" in answer["comment"]
    for pending, result in ((["user a"], None), ([], True)):
        monkeypatch.setattr("chefha_core.verbs.etcd_access.pending", lambda settings, name, said=pending: said)
        answer = states.etcd_access("x")
        assert (answer["result"], answer["changes"]) == (result, {"etcd": pending} if pending else {})
    states.__opts__["test"] = False
    monkeypatch.setattr("chefha_core.verbs.etcd_access.establish", lambda settings, name: ["user a"])
    assert states.etcd_access("x")["changes"] == {"etcd": ["user a"]}
    states.__pillar__["chefha"]["etcd_endpoints"] = ["http://127.0.0.1:1"]
    monkeypatch.undo()
    assert states.etcd_access("x") == {"name": "x", "result": True, "changes": {}, "comment": "as wanted"}
