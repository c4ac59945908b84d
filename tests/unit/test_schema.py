"""The settings by themselves: the page, the samples, and what `validate_pillar` shows are all good pillars."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import yaml

from chefha_core import cli
from chefha_core.checked import SettingsError
from chefha_core.settings import SECRETS_OF, from_pillar
from chefha_core.verbs import config
from chefha_core.verbs.reach import VerbError
from chefha_core.verbs.schema import entries, gen_sample_backend_config, reference

NEEDED: dict[str, Any] = {
    "members": {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"},
    "vip": "192.0.2.100",
}
SECRETS = {name: f"s3cret-{name}" for name in SECRETS_OF["backend"]}
PEM = {name: f"-----BEGIN {name}-----" for name in ("ca", "certificate", "key")}


def sample() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(gen_sample_backend_config())["chefha"]
    return tree


def leaves(tree: dict[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Path -> value of every setting of a pillar."""
    branches = {entry.path for entry in entries() if entry.branch}
    found: dict[tuple[str, ...], Any] = {}
    for name, value in tree.items():
        path = (*above, name)
        found |= leaves(value, path) if path in branches else {path: value}
    return found


def test_the_sample_with_what_has_no_default_is_a_pillar_and_means_the_defaults() -> None:
    tree = sample()
    for branch, values in (("members", NEEDED["members"]), ("secrets", SECRETS), ("tls", PEM)):
        tree[branch].update(values)
    tree["vip"] = NEEDED["vip"]
    assert from_pillar(tree) == from_pillar({**NEEDED, "secrets": SECRETS, "tls": PEM})


def test_the_sample_as_it_is_says_what_is_to_be_filled_in() -> None:
    with pytest.raises(SettingsError, match="pillar chefha:members has 0 members; expected exactly 3"):
        from_pillar(sample())


def test_page_and_samples_have_every_setting_with_words() -> None:
    page, classic = reference(), gen_sample_backend_config("chef-backend.rb")
    assert set(leaves(sample())) == {entry.path for entry in entries() if not entry.branch}
    for entry in entries():
        assert entry.help, entry.path
        if not entry.branch:
            assert re.search(rf"^#?{re.escape('.'.join(entry.path))} = ", classic, re.MULTILINE), entry.path
            section = page.split(f"## `{':'.join(('chefha', *entry.path[:-1]))}`: ")[1].split("\n## ")[0]
            assert f"\n| `{entry.path[-1]}` | {entry.kind} |" in section, entry.path


def test_the_classic_form_is_ruby() -> None:
    lines = gen_sample_backend_config("chef-backend.rb").splitlines()
    for line in (
        "postgresql.max_connections = 350",
        'etcd.data_dir = "/var/lib/chefha/etcd"',
        "leaderl.interval_seconds = nil",
        'firewall.open_ports = ["22"]',
        "frontends = {}",
        "tls.enabled = true",
    ):
        assert line in lines


def test_what_validate_pillar_shows_has_every_default_and_no_secret() -> None:
    given = {
        **NEEDED,
        "secrets": SECRETS,
        "tls": PEM,
        "frontend": {"settings": {"ldap['bind_password']": "s3cret-ldap"}},
    }
    shown = config.shown(from_pillar(copy.deepcopy(given)))
    assert "s3cret" not in json.dumps(shown) and "BEGIN key" not in json.dumps(shown)
    assert set(leaves(shown)) == {entry.path for entry in entries() if not entry.branch}
    assert from_pillar(shown, "anybody").members == NEEDED["members"]


def test_gen_sample_backend_config_in_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gen-sample-backend-config"]) == 0
    assert capsys.readouterr().out == gen_sample_backend_config()
    assert cli.main(["gen-sample-backend-config", "--format", "chef-backend.rb"]) == 0
    assert capsys.readouterr().out == gen_sample_backend_config("chef-backend.rb")


def test_another_format_is_refused() -> None:
    with pytest.raises(VerbError, match="expected one of pillar, chef-backend"):
        gen_sample_backend_config("toml")
