"""The states of a front end as Salt carries them out, with test=True: nothing is changed, everything is announced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.loader
import salt.state
from lab.standin import deb
from tests.salt.playground import REPOSITORY, pillar

from chefha_core.layout.catalogue import checked
from chefha_core.verbs import frontend

SECRET = "s3cret-s3cret"


@pytest.fixture
def opts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(frontend, "MEMORY", str(tmp_path / "memory.json"))
    made: dict[str, Any] = salt.config.minion_config(None)
    made.update(
        id="fe1", root_dir=str(tmp_path), cachedir=str(tmp_path), conf_file=str(tmp_path / "minion"), test=True,
        module_dirs=[str(REPOSITORY)], file_client="local", file_roots={"base": [str(REPOSITORY / "salt")]},
        extension_modules=str(tmp_path / "extmods"), chefha={"settings": str(tmp_path / "settings.json")},
    )  # fmt: skip
    tree = pillar("http://127.0.0.1:1")
    package = deb.build(tmp_path)
    tree |= {"frontends": {"fe1": "127.0.0.21", "fe2": "127.0.0.22"}, "frontend": {"source": str(package)}}
    tree |= {"search": {"source": {"package": "search-engine"}}}
    tree["secrets"] = {"superuser_password": SECRET, "monitoring_password": SECRET}
    made["grains"] = salt.loader.grains(made) | {"id": "fe1"}
    made["pillar"] = {"chefha": tree}
    return made


def run(opts: dict[str, Any], high: Any = None) -> dict[str, Any]:
    """The answers of sls chefha by the state's id."""
    answers = salt.state.HighState(opts, initial_pillar=opts["pillar"]).state.call_high(high or compiled(opts))
    return {answer["__id__"]: answer for answer in answers.values()}


def compiled(opts: dict[str, Any]) -> Any:
    high = salt.state.HighState(opts, initial_pillar=opts["pillar"])
    with high as state:
        rendered, errors = state.render_highstate({"base": ["chefha"]})
    assert not errors
    return rendered


def test_a_minion_in_frontends_gets_the_states_of_a_front_end(opts: dict[str, Any]) -> None:
    ids = {name for name in compiled(opts) if not name.startswith("__")}
    assert {"chefha_settings", "chefha_frontend_config", "chefha_frontend_published"} <= ids
    assert not ids & {"chefha_postgresql", "chefha_beacon", "chefha_leaderl"}


def test_test_mode_announces_everything_and_shows_no_secret(opts: dict[str, Any]) -> None:
    answers = run(opts)
    assert answers["chefha_checked"]["result"] is True
    assert answers["chefha_frontend_config"]["result"] is None
    assert "/etc/opscode/chef-server.rb" in answers["chefha_frontend_config"]["changes"]
    assert "in no cluster yet" in answers["chefha_backend_reachable"]["comment"]
    assert answers["chefha_frontend_carried"]["result"] is True, "the first front end has nothing to carry"
    assert answers["chefha_frontend_reconfigured"]["changes"] == {
        "chef-server-ctl reconfigure": "it has not run successfully yet"
    }
    assert False not in [answer["result"] for answer in answers.values()], answers
    assert SECRET not in json.dumps(answers)


def test_a_package_that_only_this_run_would_install_is_announced_as_a_reason(opts: dict[str, Any]) -> None:
    """By then it is not here, so that all looks as it was when Chef configured itself."""
    front = frontend.FrontEnd(checked(opts["pillar"]["chefha"], "fe1"), "fe1")
    front.remember(configured=frontend._digest(front), ever=True)
    high = compiled(opts)
    (watch,) = (one["watch"] for one in high["chefha_frontend_reconfigured"]["chefha"] if "watch" in one)
    watch.remove({"chefha": "chefha_frontend_config"})
    answers = run(opts, high)
    assert answers["chefha_frontend_package"]["changes"]
    assert answers["chefha_frontend_reconfigured"]["changes"] == {
        "chef-server-ctl reconfigure": "its files were changed"
    }
    watch.remove({"chefha": "chefha_frontend_package"})
    assert run(opts, high)["chefha_frontend_reconfigured"]["changes"] == {}


def test_a_full_disk_is_one_sentence(opts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*front: Any, **how: Any) -> None:
        raise OSError(28, "No space left on device", "/etc/opscode/private-chef-secrets.json")

    monkeypatch.setattr(frontend, "carry", full)
    answer = run(opts)["chefha_frontend_carried"]
    words = "/etc/opscode/private-chef-secrets.json: No space left on device"
    assert (answer["result"], answer["comment"]) == (False, f"a file cannot be read or written: {words}")


def test_a_front_end_that_may_not_log_in_fails_the_members_state(opts: dict[str, Any]) -> None:
    tree = {**opts["pillar"]["chefha"], "frontends": {"fe1": "198.51.100.7"}}
    tree["secrets"] = pillar("")["secrets"]
    member = {**opts, "id": "be1", "pillar": {"chefha": tree}}
    states = salt.loader.states(
        member, salt.loader.minion_mods(member, utils=salt.loader.utils(member)), {}, salt.loader.serializers(member)
    )
    answer = states["chefha.postgresql"]("x")
    assert answer["result"] is False and "front end fe1 (198.51.100.7) may not log in" in answer["comment"]
