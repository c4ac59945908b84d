"""A pillar of another kind than expected (empty, a text, a list): one state fails with one sentence, no other runs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import salt.config
import salt.loader
import salt.state
from tests.salt.playground import REPOSITORY, pillar

GOOD = pillar("http://127.0.0.1:1")
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "chefha is empty": ({"chefha": None}, "pillar chefha is empty; expected a mapping"),
    "chefha is a text": ({"chefha": "hunter2"}, "pillar chefha is a text; expected a mapping"),
    "chefha is a list": ({"chefha": [{"token": "hunter2"}]}, "pillar chefha is a list; expected a mapping"),
    "members is a number": ({"chefha": {**GOOD, "members": 5}}, "pillar chefha:members is 5; expected a mapping"),
    "members is a list": ({"chefha": {**GOOD, "members": ["be1"]}}, "pillar chefha:members is ['be1']; expected a"),
    "frontends is a text": ({"chefha": {**GOOD, "frontends": "fe1"}}, "pillar chefha:frontends is 'fe1'; expected a"),
    "masters is a number": ({"chefha": GOOD, "chefha_masters": 5}, "pillar chefha_masters is 5; expected a list"),
    "masters is a mapping": ({"chefha": GOOD, "chefha_masters": {"be1": 1}}, "pillar chefha_masters is {'be1': 1};"),
    "a master is no text": ({"chefha": GOOD, "chefha_masters": [5]}, "pillar chefha_masters is [5]; expected a list"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("minion")
    made: dict[str, Any] = salt.config.minion_config(None)
    made.update(
        root_dir=str(folder), cachedir=str(folder), conf_file=str(folder / "minion"), test=True,
        module_dirs=[str(REPOSITORY)], file_client="local", file_roots={"base": [str(REPOSITORY / "salt")]},
        extension_modules=str(folder / "extmods"),
    )  # fmt: skip
    made["grains"] = salt.loader.grains({**made, "id": "be1"})
    return made


def minion(base: dict[str, Any], name: str, tree: dict[str, Any]) -> dict[str, Any]:
    return {**base, "id": name, "grains": {**base["grains"], "id": name}, "pillar": tree}


def compiled(opts: dict[str, Any]) -> Any:
    """The states that sls chefha has for this minion."""
    with salt.state.HighState(opts, initial_pillar=opts["pillar"]) as state:
        rendered, errors = state.render_highstate({"base": ["chefha"]})
    assert not errors
    return rendered


def ids(opts: dict[str, Any]) -> set[str]:
    return {name for name in compiled(opts) if not name.startswith("__")}


@pytest.mark.parametrize("case", KINDS)
def test_checked_says_it_in_one_sentence_and_nothing_else_runs(base: dict[str, Any], case: str) -> None:
    tree, sentence = KINDS[case]
    opts = minion(base, "be1", tree)
    high = compiled(opts)
    answers = salt.state.HighState(opts, initial_pillar=opts["pillar"]).state.call_high(high)
    first, *others = sorted(answers.values(), key=lambda answer: answer["__run_num__"])
    assert (first["__id__"], first["result"]) == ("chefha_checked", False)
    assert first["comment"].startswith(sentence) and "hunter2" not in first["comment"]
    for answer in others:
        assert answer["changes"] == {}
        assert re.search("requisite failed|none of the onchanges", answer["comment"]), "it was not tried"


@pytest.mark.parametrize(
    "state", ["library", "settings", "firewall", "postgresql", "etcd_access", "frontend_published"]
)
@pytest.mark.parametrize("tree", [None, "hunter2", ["members"]], ids=["empty", "a text", "a list"])
def test_a_state_alone_says_it_too(base: dict[str, Any], state: str, tree: object) -> None:
    opts = minion(base, "be1", {"chefha": tree})
    utils = salt.loader.utils(opts)
    states = salt.loader.states(opts, salt.loader.minion_mods(opts, utils=utils), utils, salt.loader.serializers(opts))
    answer = states[f"chefha.{state}"]("x")
    assert answer["result"] is False and answer["changes"] == {}
    assert answer["comment"].startswith("pillar chefha is ") and "hunter2" not in answer["comment"]


@pytest.mark.parametrize(
    ("named", "name", "is_master"),
    [
        (["master"], "master", True),
        ("master", "master", True),
        ("saltmaster", "master", False),
        ("saltmaster", "saltmaster", True),
        (None, "master", False),
        ([], "master", False),
    ],
)
def test_a_master_is_who_is_named_in_full(base: dict[str, Any], named: object, name: str, is_master: bool) -> None:
    found = ids(minion(base, name, {"chefha": GOOD, "chefha_masters": named}))
    assert ("chefha_master_restart" in found, found == {"chefha_nothing_to_do"}) == (is_master, not is_master)


def test_without_the_pillar_a_minion_called_master_is_one(base: dict[str, Any]) -> None:
    assert "chefha_master_restart" in ids(minion(base, "master", {}))
    assert ids(minion(base, "other", {})) == {"chefha_nothing_to_do"}
